"""Optimizers that nobody here wrote, on random models: how often each breaks one, and how.

    python -m onnx_compress.bench.others --count 1000
    python -m onnx_compress.bench.others --tools onnxsim --examples

Each is run on the same models as a function from ModelProto to ModelProto, and held to checks of
`onnx_compress.testing`. A model counts as broken in one way only: the result is invalid, else has
another interface, else does not load, else other outputs than rounding explains. Whether the tool
changed its argument, lost metadata or made the model larger is counted apart.

A tool that is not installed is left out. Tools run in processes of their own: to end its process,
or to take more than --seconds, counts as failed. Models that ONNX Runtime does not take as they
are count for nobody. `--examples` shows, for all that a tool does wrong, the smallest model that
Hypothesis finds.
"""

import argparse
import contextlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.passes.clean import Fold
from onnx_compress.testing import CHECKS, Failed, as_text, feed_of, models, tried

Optimizer = Callable[[ModelProto], ModelProto]
Known = dict[bytes, list[str]]  # what is wrong, by the bytes of the model
FAILS, CHANGES = "fails or crashes", "argument changed"
BREAKS = {  # by check
    "valid": "invalid",
    "interface_kept": "interface changed",
    "loads": "does not load",
    "outputs_kept": "outputs differ",
}
ANNOYS = {"metadata_kept": "metadata lost", "cost_not_grown": "grew"}
KINDS = (FAILS, *BREAKS.values(), CHANGES, *ANNOYS.values())
_START = 120.0  # seconds that a process may take to import what it needs


def _itself(model: ModelProto) -> ModelProto:
    return model


def _fold(model: ModelProto) -> ModelProto:
    return Fold()(model)  # type: ignore[no-any-return]


def _onnxsim(model: ModelProto) -> ModelProto:
    return import_module("onnxsim").simplify(model)[0]  # type: ignore[no-any-return]


def _onnxslim(model: ModelProto) -> ModelProto:
    return import_module("onnxslim").slim(model)  # type: ignore[no-any-return]


def _onnxoptimizer(model: ModelProto) -> ModelProto:
    return import_module("onnxoptimizer").optimize(model)  # type: ignore[no-any-return]


TOOLS: dict[str, Optimizer] = {
    "fold": _fold,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxoptimizer": _onnxoptimizer,
}


def judged(tool: Optimizer, data: bytes, ran: Callable[[], None]) -> list[str]:
    """What a tool does wrong to a model, of KINDS. Tells when the tool is done."""
    model, given = ModelProto.FromString(data), ModelProto.FromString(data)
    try:
        result = tool(given)
    except (Exception, SystemExit):
        return [FAILS]
    ran()
    wrong = [] if given == model else [CHANGES]
    original = from_proto(model)
    feeds = [feed_of(original, "normal", size, size) for size in (1, 3)]
    try:
        trial = tried(lambda _: result, model)
    except Exception:  # it cannot even be read
        return [*wrong, BREAKS["valid"]]
    for name, kind in (*BREAKS.items(), *ANNOYS.items()):
        if name in BREAKS and set(wrong) & set(BREAKS.values()):
            continue
        try:
            CHECKS[name](trial, feeds)
        except Failed:
            wrong.append(kind)
    return wrong


def _serve(name: str, pipe: "Connection[Any, Any]") -> None:
    """Judge what comes through the pipe, silently; native code writes to descriptors."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    tool = TOOLS.get(name, _itself)
    pipe.send(None)
    while True:
        data = pipe.recv_bytes()
        pipe.send(judged(tool, data, lambda: pipe.send(None)))


class Worker:
    """A process that one tool runs in; another takes its place when it ends or hangs."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._start()

    def judge(self, model: ModelProto) -> list[str]:
        """What the tool does wrong to a model, of KINDS."""
        self.pipe.send_bytes(model.SerializeToString())
        ran = False
        try:
            while self.pipe.poll(self.seconds):
                said = self.pipe.recv()
                if said is not None:
                    return list(said)
                ran = True
        except EOFError:
            pass
        self.stop()
        self._start()
        return [BREAKS["loads"] if ran else FAILS]

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(_START):
            raise TimeoutError(f"{self.name} does not start")
        self.pipe.recv()


def each_drawn(count: int, seed: int, look: Callable[[ModelProto], None]) -> None:
    """Let a function look at random models, the same for every equal seed.

    Where it raises, it is shown smaller and smaller ones.
    """

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @hypothesis.given(models())
    def property_(model: ModelProto) -> None:
        look(model)

    property_()


def smallest(name: str, kind: str, known: Known, options: argparse.Namespace) -> str:
    """The text of the smallest model found that a tool does so wrong.

    `known`: what was found of models already.
    """
    worker, itself = (Worker(each, options.seconds) for each in (name, ""))
    found: list[ModelProto] = []

    def look(model: ModelProto) -> None:
        key = model.SerializeToString()
        wrong = known[key] if key in known else worker.judge(model)
        if kind in wrong and (key in known or not itself.judge(model)):
            found.append(model)
            raise Failed(kind, name)

    with contextlib.suppress(Failed), contextlib.redirect_stdout(None):
        each_drawn(options.count, options.seed, look)
    worker.stop()
    itself.stop()
    return as_text(found[-1])


def main() -> None:
    """Print the table, and examples if they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tools", nargs="+", default=[*TOOLS], choices=[*TOOLS])
    parser.add_argument("--seconds", type=float, default=30.0, help="that a tool may take a model")
    parser.add_argument("--examples", action="store_true", help="show the smallest of each kind")
    options = parser.parse_args()
    tools = [name for name in options.tools if name == "fold" or find_spec(name)]
    for name in sorted({*options.tools} - {*tools}):
        print(f"{name} is not installed: pip install {name}")
    drawn: list[ModelProto] = []
    each_drawn(options.count, options.seed, drawn.append)
    itself = Worker("", options.seconds)
    usable = {m.SerializeToString(): m for m in drawn if not itself.judge(m)}
    itself.stop()
    print(" | ".join(("tool", "models", "broken", *KINDS)), flush=True)
    results: dict[str, Known] = {}
    for name in tools:
        worker = Worker(name, options.seconds)
        known = results[name] = {key: worker.judge(model) for key, model in usable.items()}
        worker.stop()
        counts = Counter(kind for wrong in known.values() for kind in wrong)
        broken = sum(counts[kind] for kind in (FAILS, *BREAKS.values()))
        cells = [f"{n} ({n / len(usable):.1%})" for n in (broken, *(counts[k] for k in KINDS))]
        print(" | ".join((name, str(len(usable)), *cells)), flush=True)
    for name, known in results.items() if options.examples else ():
        known |= {key: [] for key in (m.SerializeToString() for m in drawn)} | known
        for kind in sorted({kind for wrong in known.values() for kind in wrong}, key=KINDS.index):
            print(f"\n{name}, {kind}:\n{smallest(name, kind, known, options)}", flush=True)


if __name__ == "__main__":
    main()
