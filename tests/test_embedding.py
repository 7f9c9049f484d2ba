"""In other programs: one pass alone, lists of passes, events, an end that is asked for, silence."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from onnx_compress import compress, plan
from onnx_compress.ir.errors import (
    CalibrationError,
    CancelledError,
    InvalidError,
    OptionError,
    OrderError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, from_proto, to_bytes
from onnx_compress.passes import Context, Event, Pass, Phase, Pipeline, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

from models_by_text import build, draw, error, left, quick, two_layers

SOURCE = two_layers()
DATA, FEED = {"x": draw(8, 96)}, {"x": draw(4, 96)}
TEXT = "prune(sparsity=0.3),quant(bits=8)"
LISTED = [Prune(sparsity=0.3), Quant(bits=8)]
ITEMS = [*LISTED, Quant(bits=16), Fold(), Pipeline.parse(TEXT, fold=True)]


def copied() -> ModelProto:
    return onnx.load_from_string(SOURCE.SerializeToString())


# ------------------------------------------------------------------------------- one pass alone


def file(folder: Path) -> Path:
    path = folder / "in.onnx"
    path.write_bytes(SOURCE.SerializeToString())
    return path


# kind -> how it is made, the bytes that tell whether it was changed, and what comes back for it
Kind = tuple[Callable[[Path], Any], Callable[[Any], bytes], type]
KINDS: dict[str, Kind] = {
    "ModelProto": (lambda _: copied(), ModelProto.SerializeToString, ModelProto),
    "Path": (file, Path.read_bytes, ModelProto),
    "str": (lambda folder: str(file(folder)), lambda path: Path(path).read_bytes(), ModelProto),
    "gs.Graph": (
        lambda _: gs.import_onnx(copied()),
        lambda graph: gs.export_onnx(graph).SerializeToString(),
        gs.Graph,
    ),
    "Model": (lambda _: from_proto(copied()), to_bytes, Model),
}


def proto(model: Any) -> ModelProto:
    if isinstance(model, gs.Graph):
        return gs.export_onnx(model)
    return onnx.load_from_string(to_bytes(model)) if isinstance(model, Model) else model


@pytest.mark.parametrize("item", ITEMS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_gives_the_kind_it_is_given_and_leaves_that_alone(tmp_path, kind, item):
    make, content, returned = KINDS[kind]
    given = make(tmp_path)
    before, files = content(given), left(tmp_path)
    result = item(given)
    assert type(result) is returned
    assert result is not given
    assert content(given) == before
    assert left(tmp_path) == files
    found = proto(result).SerializeToString()
    assert found != SOURCE.SerializeToString()
    assert found == proto(item(given)).SerializeToString()
    assert error(SOURCE, proto(result), FEED) < (1e-5 if item == Fold() else 0.3)


@pytest.mark.parametrize(
    "item",
    [Quant(), Prune(), Quant(activations="float"), Pipeline.parse("prune,quant", fold=True)],
    ids=str,
)
def test_a_pass_without_numbers_cannot_choose_alone(item):
    with pytest.raises(OptionError, match="no numbers") as caught:
        item(SOURCE)
    assert "compress" in caught.value.hint


@pytest.mark.parametrize("exclude", [("W",), ("W*",), ["W"], "W", "W*"], ids=repr)
def test_a_pass_leaves_alone_what_is_excluded(exclude):
    result = Quant(bits=8)(SOURCE, exclude=exclude)
    assert {t.name for t in result.graph.initializer} == {"W", "V.q", "V.s", "b"}


def test_a_pass_chooses_by_the_target_and_the_sample():
    wide = build("g (float[N,512] x) => (float[N,512] y) { y = MatMul (x, W) }", W=draw(512, 512))
    for target, rows, op in (
        ("avx512-vnni", 128, "MatMulInteger"),
        ("avx512-vnni", 1, "DequantizeLinear"),
        ("portable", 128, "Cast"),
    ):
        sample = {"x": draw(rows, 512)}
        result = Quant(bits=8)(wide, target=targets.load(target), sample=sample)
        assert op in {node.op_type for node in result.graph.node}


def test_a_target_by_its_name_is_taken_as_compress_takes_it():
    named, loaded = (
        Quant(bits=8)(SOURCE, target=t) for t in ("portable", targets.load("portable"))
    )
    assert named == loaded
    with pytest.raises(OptionError):
        Quant(bits=8)(SOURCE, target="no such")


def test_a_sample_stands_for_inputs_that_cannot_be_drawn():
    picky = build(
        "g (float[A,B] x, int64[2] s) => (float[?,?] y) { h = Reshape (x, s)  y = MatMul (h, W) }",
        W=draw(97, 64),
    )
    with pytest.raises(CalibrationError):
        Quant(bits=8)(picky)
    sample = {"x": draw(2, 97), "s": np.int64([2, 97])}
    for options in ({"sample": sample}, {"fit": [sample]}, {"fit": (sample, sample)}):
        assert error(picky, Quant(bits=8)(picky, **options), sample) < 0.1


def test_a_pass_refuses_a_model_that_cannot_be_run():
    broken = copied()
    broken.graph.node[0].op_type = "Nothing"
    with pytest.raises(InvalidError):
        Quant(bits=8)(broken)


# ---------------------------------------------------------------------------- passes, in any form


@pytest.mark.parametrize("fold", [True, False])
def test_passes_listed_are_those_written(fold):
    results = [
        quick(SOURCE, passes, DATA, fold=fold)
        for passes in (TEXT, LISTED, tuple(LISTED), Pipeline.parse(TEXT, fold=fold))
    ]
    assert len({result.model.SerializeToString() for result in results}) == 1
    assert {result.report.passes for result in results} == {fold * "fold," + TEXT}


def test_a_single_pass_stands_for_a_list():
    one, several = (quick(SOURCE, passes, DATA) for passes in (Quant(bits=8), [Quant(bits=8)]))
    assert one.model == several.model
    assert one.report.passes == "fold,quant(bits=8)"


def test_passes_in_a_wrong_order_are_refused():
    with pytest.raises(OrderError, match="cannot come before"):
        compress(SOURCE, LISTED[::-1])


@pytest.mark.parametrize("passes", [5, None, Quant, [Quant], ["quant(bits=8)"], [5], [None]])
@pytest.mark.parametrize("function", [compress, plan])
def test_what_is_no_pass_is_refused(function, passes):
    with pytest.raises(OptionError):
        function(SOURCE, passes)


# ----------------------------------------------------------------------------------------- events

OPTIONS = {"layers": True, "measure": False, "threads": 2, "max_error": 0.6}


def listened(folder: Path, on_event: Callable[[Event], None], **options: Any) -> None:
    """A run with every event there is."""
    out = folder / "out.onnx"
    compress(SOURCE, "prune,quant", DATA, out, on_event=on_event, **OPTIONS, **options)


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> list[Event]:
    found: list[Event] = []
    listened(tmp_path_factory.mktemp("events"), found.append)
    return found


def test_events_tell_the_passes_in_order_and_how_far_they_are(events):
    stages = [event for event in events if event.kind == "stage"]
    names = [event.text for event in stages]
    assert names == ["original", "fold", "prune", "quant", "layers", "result"]
    assert [(e.done, e.total) for e in stages if e.total] == [(0, 3), (1, 3), (2, 3)]
    assert {event.kind for event in events} <= {"stage", "progress", "warning"}
    counted = {e.text for e in events if e.kind == "progress"}
    assert counted == {"samples", "weights", "weights refitted", "layers"}
    assert all(0 <= event.done <= event.total for event in events)
    for before, after in pairwise(events):
        if before.kind == after.kind == "progress" and before.text == after.text:
            starts_again = after.done <= 1
            assert starts_again or (after.done, after.total) == (before.done + 1, before.total)


def at_event(number: int, do: Callable[[], None]) -> Callable[[Event], None]:
    """A listener that does something at one event."""
    numbers = count()
    return lambda _: do() if next(numbers) == number else None


def assert_ended(folder: Path, listen: Callable[[Event], None], **options: Any) -> CancelledError:
    """The run ends; the file that is there stays, and nothing else is there."""
    (folder / "out.onnx").write_bytes(b"old")
    with pytest.raises(CancelledError) as caught:
        listened(folder, listen, **options)
    assert caught.value.hint
    assert left(folder) == {"out.onnx"}
    assert (folder / "out.onnx").read_bytes() == b"old"
    return caught.value


def throw(raised: BaseException) -> None:
    raise raised


RAISED = [
    (ValueError("mine"), False, 3),
    (VerificationError("mine"), True, 4),  # no pass has failed: this is the listener's
    (MemoryError("mine"), True, 6),
    (OSError(28, "full"), False, 6),
]


@pytest.mark.parametrize(("raised", "keep_going", "step"), RAISED)
def test_a_listener_that_raises_ends_the_run(tmp_path, events, raised, keep_going, step):
    for number in range(0, len(events), step):
        listen = at_event(number, lambda: throw(raised))
        ended = assert_ended(tmp_path, listen, keep_going=keep_going)
        assert ended.__cause__ is raised
    listened(tmp_path, lambda _: None)


def test_a_listener_that_raises_ends_a_plan():
    found: list[Event] = []
    plan(SOURCE, TEXT, DATA, on_event=found.append)
    for number in range(len(found)):
        with pytest.raises(CancelledError) as caught:
            plan(SOURCE, TEXT, DATA, on_event=at_event(number, lambda: throw(RAISED[0][0])))
        assert caught.value.__cause__ is RAISED[0][0]


def test_ctrl_c_in_a_listener_stays_what_it_is(tmp_path, events):
    for number in range(0, len(events), 7):
        with pytest.raises(KeyboardInterrupt):
            listened(tmp_path, at_event(number, lambda: throw(KeyboardInterrupt())))
        assert left(tmp_path) == set()


@dataclass(frozen=True)
class Deaf(Pass):
    """Swallows all errors, as passes that people write may do."""

    name: ClassVar[str] = "deaf"

    @property
    def phase(self) -> Phase:
        return Phase.MASK

    def run(self, model: Model, context: Context) -> Report:
        try:
            context.progress(0, 1, "things")
        except Exception as error:
            return Report(summary=str(error))
        return Report()


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_pass_that_swallows_errors_does_not_swallow_the_end(tmp_path, keep_going):
    def listen(event: Event) -> None:
        if event.text == "things":
            raise ValueError("enough")

    out = tmp_path / "out.onnx"
    with pytest.raises(CancelledError):
        quick(SOURCE, [Deaf(), Quant(bits=8)], DATA, out, on_event=listen, keep_going=keep_going)
    assert left(tmp_path) == set()


def test_an_end_asked_for_at_any_event_comes(tmp_path, events):
    """Also at the last one: the result is not in its place then."""
    for number in range(len(events)):
        cancel = threading.Event()
        assert_ended(tmp_path, at_event(number, cancel.set), cancel=cancel)
    listened(tmp_path, lambda _: None, cancel=threading.Event())


@pytest.mark.parametrize("function", [compress, plan])
def test_an_end_asked_for_before_comes_at_once(function):
    cancel, seen = threading.Event(), []
    cancel.set()
    with pytest.raises(CancelledError):
        function(SOURCE, TEXT, DATA, cancel=cancel, on_event=seen.append)
    assert seen == []


# ---------------------------------------------------------------------------------------- silence

# in a process of its own: writes down how each run ended, and what is not as it was before
SILENT = '''
import gc, json, logging, os, random, signal, sys, threading, warnings
import numpy as np, onnx
from onnx_compress import compress, plan
from onnx_compress.ir.errors import CompressError
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant
from models_by_text import build, draw, embedding, two_layers

warnings.simplefilter("always")
warnings.simplefilter("ignore", ResourceWarning)

def state():
    gc.collect()
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = [x for x in loggers if getattr(x, "level", 0) or getattr(x, "handlers", 0)]
    return {
        "logging": [(x.name, x.level, x.handlers[:], x.disabled) for x in loggers],
        "warnings": (warnings.filters[:], warnings.showwarning),
        "numpy": (np.geterr(), np.get_printoptions(), np.random.get_state()[1].tolist()),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "process": (os.getcwd(), sys.path[:], sys.getrecursionlimit(), sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, threading.excepthook, gc.isenabled(), gc.get_threshold()),
        "random": random.getstate(),
        "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "threads": [x.name for x in threading.enumerate() if "onnx-compress" not in x.name],
        "temporary": os.listdir(os.environ["TMPDIR"]),
    }

def product(factor=1, out="float[N,64] y"):
    body = f"g (float[N,96] x) => ({out}) {{ h = Add (x, c)  y = MatMul (h, W) }}"
    return build(body, W=draw(96, 64).clip(-1, 1) * np.float32(factor), c=draw(96))

def node(op, domain):
    proto = two_layers()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = op, domain
    return proto

def version(ir, opset):
    return build("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", opset=opset, ir=ir)

endless = build("""g (float[2] x) => (float[2] y) { on = Constant <value = bool {1}> ()
    y = Loop (, on, x) <body = l (int64 k, bool go, float[2] at)
    => (bool still, float[2] next) { still = Identity (go)  next = Neg (at) }> }""")
huge = build("g (float[4] x) => (float[?,?] y) { w = ConstantOfShape (s)  y = Add (w, x) }",
    s=np.int64([10**6, 10**6]))
shaped = build("g (float[N,96] x, int64[2] s) => (float[?,?] y) { y = Reshape (x, s) }")
far = np.zeros((8, 3, 5), "int64")
far[5] = 200
data = {"x": draw(8, 96)}
onnx.save(two_layers(), "in.onnx")
with open("garbage.onnx", "wb") as file:
    file.write(b"garbage")
ended = {}

def run(name, *arguments, function=compress, **options):
    try:
        function(*arguments, **options)
        ended[name] = "fine"
    except CompressError as error:
        ended[name] = type(error).__name__

def run_all():
    run("files", "in.onnx", "prune,quant", data, "out.onnx", layers=True)
    run("drawn", "in.onnx")
    run("pieces", two_layers(), "quant", data, memory=1000)
    run("plan", two_layers(), function=plan)
    for factor in (np.nan, np.inf, 1e-42, 1e6, 3e38, 0):
        for item in (Quant(bits=8), Quant(bits=16), Prune(sparsity=0.5), Fold()):
            run(f"{factor}, {item}", product(factor), item, data)
            run(f"{factor}, {item} alone", product(factor), function=item)
    run("index", embedding()[0], "quant", {"i": far})
    run("operator", node("Nothing", ""))
    run("domain", node("Relu", "a.b"))
    run("IR", version(99, 17))
    run("operator set", version(8, 999))
    run("wrong width", product(out="float[N,63] y"), "quant")
    run("wrong rank", product(out="float[N,64,2] y"), "quant")
    run("garbage", "garbage.onnx")
    run("missing", "missing.onnx")
    run("huge", huge, "quant")
    run("shape", shaped, "quant")
    run("endless", endless, "fold", timeout=0.2)

if __name__ == "__main__":
    run_all()  # what is loaded lazily stays
    before = state()
    run_all()
    after = state()
    changed = {key: str(after[key]) for key in before if after[key] != before[key]}
    with open("done.json", "w") as file:
        json.dump([ended, changed], file)
'''


def test_nothing_is_printed_and_nothing_of_the_process_changes(tmp_path):
    """Neither by Python nor by the runtime; and no thread keeps the process from ending."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    ended, changed = json.loads((tmp_path / "done.json").read_text())
    assert changed == {}
    assert {name for name, how in ended.items() if how == "fine"} >= {"files", "drawn", "pieces"}
    assert ended["garbage"] == ended["missing"] == "LoadError"
    assert ended["endless"] == "TooLongError"
    assert ended["operator"] == ended["domain"] == "InvalidError"
    session = "temporary/.ses"  # of the runtime's telemetry, written when it is imported
    assert left(tmp_path) - {session} == {
        "in.onnx",
        "out.onnx",
        "garbage.onnx",
        "done.json",
        "temporary",
    }
