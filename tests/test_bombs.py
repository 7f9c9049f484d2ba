"""Small files that stand for gigabytes or for endless work, at the command line.

Each runs in a process of its own, which may take little memory and little time.
"""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from graphs import run

pytest.importorskip("resource")  # limits of processes

MEMORY = 1500 << 20  # bytes
SECONDS = 3  # of a processor; a usual run takes less than one
PEAK = 500 << 10  # kB; a usual run takes a quarter
AT_ONCE = 4

# the package is imported once; each model has a child of its own
WORKER = """
import os, resource, signal, sys
import onnxruntime
from onnx_compress.cli import main
memory, seconds, at_once, *folders = sys.argv[1:]
running = {}
def wait():
    child, status, used = os.wait3(0)
    with open(os.path.join(running.pop(child), "status"), "w") as file:
        print(os.waitstatus_to_exitcode(status), used.ru_maxrss, file=file)
for folder in folders:
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        signal.alarm(60)
        os.chdir(folder)
        os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT), 2)
        code = main(["work/in.onnx", "work/out.onnx", "--quiet", "--timeout", "1"])
        sys.stderr.flush()
        os._exit(code)
    running[child] = folder
    if len(running) == int(at_once):
        wait()
while running:
    wait()
"""


@dataclass(frozen=True)
class Ended:
    """How the command ended; a negative code is the signal that ended it."""

    code: int
    peak: int  # kB of memory
    errors: list[str]
    source: bytes
    result: bytes | None
    left: set[str]  # files in the folder

    @property
    def why(self) -> str:
        """What to print where a test fails."""
        stopped = {-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL}
        return "it takes too long" if self.code in stopped else f"{self.code} {self.errors}"


def ended(folder: Path, protos: dict[str, ModelProto]) -> dict[str, Ended]:
    """What the command does with each of these models."""
    places = {}
    for number, (name, proto) in enumerate(protos.items()):
        places[name] = folder / str(number)
        (places[name] / "work").mkdir(parents=True)
        (places[name] / "work" / "in.onnx").write_bytes(proto.SerializeToString())
    limits = (str(MEMORY), str(SECONDS), str(AT_ONCE))
    command = [sys.executable, "-c", WORKER, *limits, *map(str, places.values())]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    out = {}
    for name, place in places.items():
        result = place / "work" / "out.onnx"
        out[name] = Ended(
            *map(int, (place / "status").read_text().split()),
            (place / "errors").read_text(errors="replace").splitlines(),
            (place / "work" / "in.onnx").read_bytes(),
            result.read_bytes() if result.exists() else None,
            {path.name for path in (place / "work").iterdir()},
        )
    return out


def assert_refused(end: Ended) -> None:
    assert end.code > 0, end.why
    assert end.left == {"in.onnx"}
    error, hint = end.errors
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")


def assert_small_and_right(end: Ended, **feed: np.ndarray) -> None:
    """Written in little memory, no larger than the input, and with the same outputs."""
    assert end.code == 0, end.why
    assert end.errors == []
    assert end.result is not None
    assert end.left == {"in.onnx", "out.onnx"}
    assert end.peak < PEAK
    assert len(end.result) <= len(end.source)
    outputs = (run(onnx.load_from_string(data), **feed) for data in (end.source, end.result))
    for before, after in zip(*outputs, strict=True):
        np.testing.assert_array_equal(after, before)


# ---------------------------------------------------------------------------------- what explodes

WIDE = [30_000, 30_000]  # numbers: 3.6 GB
DOUBLINGS = 18  # of 64 bytes: 17 MB
# name -> (lines that make w, rank of w, constants that they read)
EXPLODING: dict[str, tuple[str, int, dict[str, np.ndarray]]] = {
    "ConstantOfShape": ("w = ConstantOfShape (wide)", 2, {}),
    "Expand": ("w = Expand (one, wide)", 2, {}),
    "Tile": ("w = Tile (square, wide)", 2, {}),
    "Range": ("w = Range (zero, billion, step)", 1, {}),
    "Pad": ("w = Pad (one, pads)", 1, {}),
    "Concat": (
        "w0 = Concat <axis=0> (k, k)  "
        + "  ".join(f"w{n + 1} = Concat <axis=0> (w{n}, w{n})" for n in range(DOUBLINGS))
        + f"  w = Identity (w{DOUBLINGS})",
        1,
        {"k": np.ones(16, np.float32)},
    ),
    "ScatterND": ("v = ConstantOfShape (wide)  w = ScatterND (v, places, one)", 2, {}),
    "GatherND": ("w = GatherND (row, picks)", 2, {}),
    "Gather": ("w = Gather (places_row, numbers)", 2, {}),
    "Resize": ("w = Resize (image, , , sizes)", 4, {}),
    "OneHot": ("w = OneHot (numbers, billion, values)", 2, {}),
    "MatMul": ("w = MatMul (tall, row)", 2, {}),
    "one by the other": ("n = Mul (root, root)  w = Expand (one, n)", 1, {}),
}  # fmt: skip
CONSTANTS = {
    "wide": np.int64(WIDE),
    "root": np.int64([30_000]),
    "one": np.float32([1]),
    "square": np.float32([[1]]),
    "image": np.ones((1, 1, 1, 1), np.float32),
    "zero": np.int64(0),
    "step": np.int64(1),
    "billion": np.int64(10**9),
    "pads": np.int64([0, 10**9]),
    "places": np.int64([[0, 0]]),
    "row": np.ones((1, 30_000), np.float32),
    "places_row": np.ones((1, 30_000), np.int64),  # no weight
    "tall": np.ones((30_000, 1), np.float32),
    "numbers": np.zeros(30_000, np.int64),
    "picks": np.zeros((30_000, 1), np.int64),
    "values": np.float32([0, 1]),
    "sizes": np.int64([1, 1, *WIDE]),
}


def lines(name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Lines that read w and its size, and the constants that they need."""
    text, rank, own = EXPLODING[name]
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    read = {key: array for key, array in CONSTANTS.items() if key in words} | own
    text += "  f = GatherND (w, first)  g = Cast <to=1> (f)  p = Mul (i, g)"
    return f"{text}  m = Size (w)  o = Cast <to=1> (m)  r = Mul (p, o)", {
        **read,
        "first": np.zeros(rank, np.int64),
    }


def initialized(text: str, **constants: np.ndarray) -> ModelProto:
    proto = parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return proto


def in_branch(name: str) -> ModelProto:
    """In a branch that is not taken when the condition is true."""
    body, constants = lines(name)
    text = f"""g (bool b, float[4] x) => (float[4] y) {{
        i = Identity (x)
        y = If (b) <then_branch = t () => (float[4] q) {{ q = Neg (i) }},
            else_branch = e () => (float[4] r) {{ {body} }}>
    }}"""
    return initialized(text, **constants)


def in_function(name: str) -> ModelProto:
    """In a function that is called in a branch that is not taken."""
    body, constants = lines(name)
    proto = parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (bool b, float[4] x) => (float[4] y) {{
            j = Identity (x)
            y = If (b) <then_branch = t () => (float[4] q) {{ q = Neg (j) }},
                else_branch = e () => (float[4] s) {{ s = local.f (j) }}>
        }}
        <domain: "local", opset_import: ["" : 17]> f (i) => (r) {{ {body} }}"""
    )
    for key, array in constants.items():
        tensor = numpy_helper.from_array(array)
        proto.functions[0].node.insert(0, helper.make_node("Constant", [], [key], value=tensor))
    return proto


def in_graph(name: str) -> ModelProto:
    """Where every run computes it."""
    body, constants = lines(name)
    return initialized(
        f"g (float[4] x) => (float[4] r) {{ i = Identity (x)  {body} }}", **constants
    )


TAKEN = {"b": np.array(True), "x": np.float32([1, 2, 3, 4])}


IN_FUNCTION = ("Range", "Pad", "Concat", "Expand")
TOO_LARGE = ("Expand", "Pad", "GatherND", "OneHot", "Resize")  # for the runtime itself


def sparse(side: int) -> ModelProto:
    """One number in a matrix of nothing else, as a Constant node; 64 bytes."""
    values = helper.make_tensor("", TensorProto.FLOAT, [1], [3.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    matrix = SparseTensorProto(values=values, indices=indices, dims=[side, side])
    proto = initialized(
        "g (float[4] x) => (float[4] r) { f = GatherND (w, first)  r = Mul (x, f) }",
        first=np.zeros(2, np.int64),
    )
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=matrix))
    return proto


def loop(count: str) -> ModelProto:
    return initialized(
        f"""g (float[2] x) => (float[2] y) <int64 n = {{ {2**31} }}> {{
            i = Identity (x)
            on = Constant <value = bool {{1}}> ()
            y = Loop ({count}, on, i) <body = l (int64 k, bool go, float[2] at)
                => (bool still, float[2] next) {{ still = Identity (go)  next = Neg (at) }}>
        }}"""
    )


LOOPS = {"two billion times": loop("n"), "as long as it is true": loop("")}


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, Ended]:
    """How the command ended, of all models of this file; the longest come first."""
    protos = {
        **LOOPS,
        **{f"{name} in a function": in_function(name) for name in IN_FUNCTION},
        **{f"{name} in a branch": in_branch(name) for name in EXPLODING},
        **{name: in_graph(name) for name in (*TOO_LARGE, "Concat")},
        "sparse": sparse(4_000),
        "too sparse": sparse(10**6),
    }
    return ended(tmp_path_factory.mktemp("bombs"), protos)


# ----------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", EXPLODING)
def test_what_would_grow_in_a_branch_stays_small(ends, name):
    assert_small_and_right(ends[f"{name} in a branch"], **TAKEN)


@pytest.mark.parametrize("name", IN_FUNCTION)
def test_what_would_grow_in_a_function_stays_small(ends, name):
    assert_small_and_right(ends[f"{name} in a function"], **TAKEN)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_no_machine_holds_is_refused_in_words(ends, name):
    assert_refused(ends[name])


def test_what_the_runtime_can_hold_stays_small(ends):
    assert_small_and_right(ends["Concat"], x=TAKEN["x"])


def test_too_little_memory_is_said_and_not_blamed_on_the_data(ends):
    """No other inputs can help a model that makes gigabytes of its own constants."""
    error, hint = ends["Expand"].errors
    assert "memory" in error
    assert "--calib" not in hint


def test_a_sparse_constant_stays_sparse(ends):
    assert_small_and_right(ends["sparse"], x=TAKEN["x"])


def test_a_sparse_constant_that_no_machine_holds_is_refused_in_words(ends):
    assert_refused(ends["too sparse"])


@pytest.mark.parametrize("name", LOOPS)
def test_a_model_that_never_ends_is_refused_in_words(ends, name):
    assert_refused(ends[name])
    assert "--timeout" in ends[name].errors[1]
