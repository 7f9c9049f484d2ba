"""Several runs at the same time: on threads, beside one that ends badly, in forked processes."""

import asyncio
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from onnx_compress.ir.errors import CancelledError, InvalidError, TooLongError
from onnx_compress.ir.graph import from_proto, load, to_bytes
from onnx_compress.ir.runtime import limits
from onnx_compress.passes.quant import Quant

from models_by_text import build, draw, embedding, left, norm, quick, two_layers

ENDLESS = build(
    """g (float[2] x) => (float[2] y) {
        i = Identity (x)  on = Constant <value = bool {1}> ()
        y = Loop (, on, i) <body = l (int64 k, bool go, float[2] at)
            => (bool still, float[2] next) { still = Identity (go)  next = Neg (at) }> }"""
)
SOURCE = two_layers()
DATA = {"x": draw(8, 96)}


def chain(length: int = 40) -> ModelProto:
    """Sums of constants, which are folded one by one."""
    body = "  ".join(f"k{i} = Add (c, c{i})  h{i + 1} = Add (h{i}, k{i})" for i in range(length))
    text = f"g (float[N,96] x) => (float[N,96] y) {{ h0 = Neg (x)  {body}  y = Relu (h{length}) }}"
    return build(text, c=draw(96), **{f"c{i}": draw(96) for i in range(length)})


def image() -> ModelProto:
    text = """g (float[N,3,8,8] x) => (float[N,16,8,8] y) {
        h = Conv <pads = [1,1,1,1]> (x, W)  y = BatchNormalization (h, g, b, m, v) }"""
    return build(text, W=draw(16, 3, 3, 3), **norm(16))


def recurrent() -> ModelProto:
    text = """g (float[T,1,32] x) => (float[?,?,?] y) {
        o, s, c = LSTM <hidden_size = 32> (x, W, R)  y = Squeeze (o) }"""
    return build(text, W=draw(1, 128, 32), R=draw(1, 128, 32))


TABLE, INDICES = embedding()
# name -> model, passes, and what differs between the runs
RUNS: dict[str, tuple[ModelProto, str, dict[str, Any]]] = {
    "whole": (SOURCE, "prune,quant", {"calibration": DATA, "threads": 1}),
    "in pieces": (SOURCE, "quant(bits=8)", {"calibration": DATA, "memory": 1000}),
    "table": (TABLE, "quant(bits=8)", {"timeout": 50, "threads": 1}),
    "image": (image(), "prune(sparsity=0.3),quant(bits=8)", {"seed": 3, "threads": 2}),
    "chain": (chain(), "fold", {"memory": 10**6}),
    "recurrent": (recurrent(), "quant", {"target": "portable", "threads": 1}),
    "left alone": (SOURCE, "quant(bits=16)", {"exclude": ["W"], "verify": False}),
}


def done(name: str) -> tuple[bytes, float | None, int]:
    model, passes, options = RUNS[name]
    result = quick(model, passes, **options)
    return result.model.SerializeToString(), result.report.error, result.report.bytes_after


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[bytes, float | None, int]]:
    """What each run gives when no other is under way."""
    return {name: done(name) for name in RUNS}


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """What jobs give, or raise, that begin together."""
    gate = threading.Barrier(len(jobs))

    def begin(job: Callable[[], Any]) -> Any:
        gate.wait()
        try:
            return job()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(begin, jobs))


# --------------------------------------------------------------------------------- the same bytes


def test_runs_on_threads_give_what_they_give_alone(alone):
    for start in range(len(RUNS)):
        names = [list(RUNS)[(start + at) % len(RUNS)] for at in range(4)]
        assert at_once(*(lambda name=name: done(name) for name in names)) == [
            alone[name] for name in names
        ]


def test_runs_on_one_model_give_what_they_give_alone(tmp_path):
    """Neither a proto, nor a Model whose storage they share, nor a file that all write."""
    (tmp_path / "in.onnx").write_bytes(SOURCE.SerializeToString())
    proto, view, out = SOURCE, load(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    expected = quick(SOURCE, "quant(bits=8)", DATA).model.SerializeToString(deterministic=True)
    for given in (proto, view, from_proto(proto)):
        before = to_bytes(given) if given is not proto else proto.SerializeToString()
        results = at_once(*[lambda given=given: quick(given, "quant(bits=8)", DATA, out)] * 4)
        assert {result.report.bytes_after for result in results} == {len(expected)}
        assert out.read_bytes() == expected
        for result in results:
            found = result.model
            assert (found.SerializeToString() if given is proto else to_bytes(found)) == expected
        assert (to_bytes(given) if given is not proto else proto.SerializeToString()) == before
    assert left(tmp_path) == {"in.onnx", "out.onnx"}


def test_passes_alone_on_threads_share_a_model():
    view = from_proto(SOURCE)
    expected = to_bytes(Quant(bits=8)(view))
    results = at_once(*[lambda: to_bytes(Quant(bits=8)(view))] * 4)
    assert set(results) == {expected}


# ------------------------------------------------------------------------------ nothing is shared


def test_warnings_are_shown_as_before_and_meanwhile():
    """Filters belong to the process: who changes them for a while, changes them for all."""
    before, seen = warnings.filters[:], []
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(quick, chain(), "fold") for _ in range(4)]
            while not all(run.done() for run in running):
                seen.append(warnings.filters[:])
        seen.append(warnings.filters[:])
    finally:
        sys.setswitchinterval(interval)
        warnings.filters[:] = before
    assert sum(filters != before for filters in seen) == 0


def test_libraries_are_loaded_into_the_runs_they_are_given_to(tmp_path, monkeypatch):
    found: dict[int, set[str]] = {}

    def register(_: Any, path: str) -> None:
        found.setdefault(threading.get_ident(), set()).add(Path(path).name)

    monkeypatch.setattr(onnxruntime.SessionOptions, "register_custom_ops_library", register)
    for name in "ab":
        (tmp_path / f"{name}.so").touch()

    def job(*names: str) -> set[str]:
        libraries = [tmp_path / f"{name}.so" for name in names]
        quick(SOURCE, "quant(bits=8)", DATA, custom_ops=libraries, memory=10**6)
        return found.get(threading.get_ident(), set())

    jobs = [(), ("a",), ("b",), ("a", "b")]
    results = at_once(*(lambda names=names: job(*names) for names in jobs))
    assert results == [{f"{name}.so" for name in names} for names in jobs]


def test_limits_of_one_run_are_not_those_of_others_nor_of_the_caller():
    both = threading.Barrier(2)

    def job(memory: int, timeout: float) -> list[tuple[int, float]]:
        mine: list[tuple[int, float]] = []

        def listen(event: Any) -> None:
            if event.kind == "stage":
                both.wait(30)
                mine.append((limits.whole_bytes(), limits.run_seconds()))

        quick(SOURCE, "quant", DATA, memory=memory, timeout=timeout, on_event=listen)
        return mine

    for memory, timeout, found in zip(
        (10**6, 1000), (30, 60), at_once(lambda: job(10**6, 30), lambda: job(1000, 60)), strict=True
    ):
        assert set(found) == {(memory, timeout)}
    assert (limits.whole_bytes(), limits.run_seconds()) == (limits.WHOLE, limits.SECONDS)


# ------------------------------------------------------------------- beside one that ends badly


@pytest.mark.parametrize("threads", [1, 2])
def test_an_endless_run_keeps_no_other_from_ending(alone, threads):
    """They neither wait for it nor take its time for theirs; it ends when it is told to."""
    cancel, begun = threading.Event(), threading.Event()

    def endless() -> Any:
        return quick(
            ENDLESS, "fold", threads=threads, cancel=cancel, on_event=lambda _: begun.set()
        )

    def others() -> list[Any]:
        begun.wait()
        try:
            return [
                quick(SOURCE, "quant(bits=8)", DATA, threads=threads, timeout=3).report.error
                for _ in range(3)
            ]
        finally:
            cancel.set()

    ended, errors = at_once(endless, others)
    assert isinstance(ended, CancelledError)
    assert isinstance(errors, list), errors
    assert set(errors) == {quick(SOURCE, "quant(bits=8)", DATA).report.error}


def test_of_two_endless_runs_one_is_ended():
    """By its own event, and the other goes on until its own time is over."""
    cancel, begun = threading.Event(), threading.Event()

    def impatient() -> Any:
        begun.wait()
        cancel.set()
        return quick(ENDLESS, "fold", threads=2, timeout=0.3)

    options = {"threads": 2, "cancel": cancel, "on_event": lambda _: begun.set()}
    first, second = at_once(lambda: quick(ENDLESS, "fold", **options), impatient)
    assert isinstance(first, CancelledError)
    assert isinstance(second, TooLongError)


@pytest.mark.parametrize("memory", [None, 1], ids=["whole", "in pieces"])
@pytest.mark.parametrize("data", [None, [{"x": draw(2)}] * 2], ids=["drawn", "given"])
def test_an_end_asked_for_from_another_thread_comes(tmp_path, data, memory):
    """In the middle of a run; and a new one works."""
    cancel, begun = threading.Event(), threading.Event()
    options = {"memory": memory, "cancel": cancel, "on_event": lambda _: begun.set()}

    def end() -> None:
        begun.wait()
        cancel.set()

    out = tmp_path / "out.onnx"
    ended, _ = at_once(lambda: quick(ENDLESS, "fold", data, out, **options), end)
    assert isinstance(ended, CancelledError)
    assert left(tmp_path) == set()
    assert quick(SOURCE, "quant(bits=8)", DATA).report.error < 0.1


def test_runs_that_fail_do_not_disturb_the_others(alone):
    broken = ModelProto()
    broken.CopyFrom(SOURCE)
    broken.graph.node[0].op_type = "Nothing"

    def listen(_: Any) -> None:
        raise ValueError("mine")

    failing = [
        lambda: quick(broken),
        lambda: quick(SOURCE, "quant", DATA, on_event=listen),
    ]
    for name in RUNS:
        first, second, *found = at_once(*failing, *[lambda name=name: done(name)] * 2)
        assert isinstance(first, InvalidError)
        assert isinstance(second, CancelledError)
        assert found == [alone[name]] * 2


# ----------------------------------------------------------------------------- asyncio and forks


def test_runs_under_asyncio(alone):
    """The loop goes on meanwhile, and can end one of them."""
    cancel = threading.Event()

    async def several() -> tuple[list[Any], Any]:
        endless = asyncio.create_task(asyncio.to_thread(quick, ENDLESS, "fold", cancel=cancel))
        found = await asyncio.gather(*(asyncio.to_thread(done, name) for name in list(RUNS)[:4]))
        assert not endless.done()
        cancel.set()
        return found, (await asyncio.gather(endless, return_exceptions=True))[0]

    found, ended = asyncio.run(several())
    assert found == [alone[name] for name in list(RUNS)[:4]]
    assert isinstance(ended, CancelledError)


def forked(job: Callable[[], bool]) -> int:
    """A process that ends with 0 where the job gives true; it has a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it has threads: that is the point
        child = os.fork()
    if child:
        return child
    code = 2
    try:
        signal.alarm(60)
        code = 0 if job() else 1
    finally:
        os._exit(code)


def ended(*children: int) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes by fork here")


@needs_fork
def test_a_process_forked_during_a_run_has_runs_of_its_own(alone):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: [done("whole") for _ in range(4)])
        children = [
            forked(lambda name=name: done(name) == alone[name]) for name in ("table", "whole")
        ]
        assert ended(*children) == [0, 0]
        assert running.result() == [alone["whole"]] * 4


@needs_fork
def test_forked_processes_may_share_a_model(tmp_path):
    """Each reads the weights by itself, although the place in an open file is one for all."""
    proto = build(
        "g (float[N,W] x) => (float[N,W] y) { y = Relu (x) }",
        **{f"w{at}": np.full((40, 40), at, "float32") for at in range(16)},
    )
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "in.onnx")
    weights = {value: at for at, value in enumerate(model.graph.initializers)}

    def right() -> bool:
        return all(
            (model.constant(value) == at).all() for _ in range(300) for value, at in weights.items()
        )

    assert ended(*(forked(right) for _ in range(6))) == [0] * 6
