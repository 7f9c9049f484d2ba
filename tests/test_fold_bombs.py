"""fold: small files that stand for large arrays or long work take neither memory nor time."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from onnx import helper

from onnx_compress.passes.clean import constants

from models_by_text import (
    assert_same,
    build,
    draw,
    fold,
    same_numbers_in_any_order,  # noqa: F401
)


@contextlib.contextmanager
def counted_evaluations() -> Iterator[list[str]]:
    """The operators that are computed meanwhile."""
    seen: list[str] = []
    real = constants.evaluate

    def counting(model, node, inputs):
        seen.append(node.op)
        return real(model, node, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "evaluate", counting)
        yield seen


BOMBS = {
    "ConstantOfShape": "w = ConstantOfShape (huge)",
    "Expand": "w = Expand (one, huge)",
    "Tile": "w = Tile (one2, huge)",
    "Range": "w = Range (zero, billion, step)",
    "Range of small steps": "w = Range (zerof, onef, tiny)",
    "Pad": "w = Pad (one, pads)",
    "Add": "w = Add (column, row)",
    "Where": "q = Equal (column, row)  w = Where (q, column, row)",
    "Gather": "w = Gather (row, picks, axis)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_stays_an_expression(name):
    line = BOMBS[name].replace("(row, picks, axis)", "(row, picks)")
    proto = build(
        f"g (int64[1] i) => (int64[?] y) {{ {line}  s = Shape (w)  y = Mul (s, i) }}",
        huge=np.int64([40_000, 40_000]),
        one=np.float32([1]),
        one2=np.float32([[1]]),
        zero=np.int64(0),
        billion=np.int64(10**9),
        step=np.int64(1),
        zerof=np.float32(0),
        onef=np.float32(1),
        tiny=np.float32(1e-9),
        pads=np.int64([0, 10**9]),
        column=draw(20_000, 1),
        row=draw(1, 20_000),
        picks=np.zeros(20_000, "int64"),
        k=draw(16),
    )
    size = proto.ByteSize()
    folded, _ = fold(proto)
    assert folded.ByteSize() <= size


HUNGRY = {
    "doubling": " ".join(
        ["w0 = Concat <axis=0> (k, k)"]
        + [f"w{i + 1} = Concat <axis=0> (w{i}, w{i})" for i in range(17)]
        + ["s = Shape (w17)"]
    ),
    "expanded and cut": "w = Expand (one, huge)  s = Slice (w, zero, some)",
    "filled and cut": "w = ConstantOfShape (huge)  s = Slice (w, zero, some)",
}


@pytest.mark.parametrize("name", HUNGRY)
def test_small_files_take_little_memory(name):
    """In a process of its own, whose peak can be read."""
    pytest.importorskip("resource")
    kind = "int64[?]" if name == "doubling" else "float[?,?]"
    proto = build(
        f"g ({kind} i) => ({kind} y) {{ {HUNGRY[name]}  y = Mul (s, i) }}",
        k=draw(16),
        one=np.float32([[1]]),
        huge=np.int64([12_000, 12_000]),
        zero=np.int64([0]),
        some=np.int64([2]),
    )
    code = (
        "import resource, sys; from onnx import ModelProto;"
        "from onnx_compress.ir.graph import from_proto;"
        "from onnx_compress.passes.clean.constants import fold_constants;"
        "model = from_proto(ModelProto.FromString(sys.stdin.buffer.read()));"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); fold_constants(model); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=proto.SerializeToString(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 400_000  # kB


def test_a_long_range_is_not_built():
    proto = build(
        "g (int64[2] i) => (int64[2] y) "
        "{ w = Range (start, stop, step)  s = Slice (w, zero, two)  y = Add (s, i) }",
        start=np.int64(0),
        stop=np.int64(60_000_000),
        step=np.int64(1),
        zero=np.int64([0]),
        two=np.int64([2]),
    )
    with counted_evaluations() as seen:
        fold(proto)
    assert seen == []  # onnx.reference builds a Range in a loop


def test_a_long_chain_with_many_readers_is_computed_once():
    steps = 250
    lines = ["w0 = Add (k, k)"] + [f"w{n} = Add (w{n - 1}, k)" for n in range(1, steps)]
    lines += ["h0 = Mul (x, w0)"] + [f"h{n} = Mul (h{n - 1}, w{n})" for n in range(1, steps)]
    proto = build(
        f"g (float[100] x) => (float[?] h{steps - 1}) {{ {'  '.join(lines)} }}", k=draw(100)
    )
    with counted_evaluations() as seen:
        fold(proto)
    assert len(seen) <= 3 * steps


def test_what_would_grow_stays_in_a_branch_too():
    branch = build(
        "g () => (float[?,?] b) { b = Add (column, row) }", column=draw(3000, 1), row=draw(1, 3000)
    ).graph
    other = build("g () => (float[?,?] b) { b = Identity (small) }", small=draw(1, 1)).graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=branch, else_branch=other)
    proto = build("g (bool c) => (float s) { s = ReduceSum <keepdims=0> (h) }")
    proto.graph.node.insert(0, node)
    size = proto.ByteSize()
    folded, _ = fold(proto)
    assert folded.ByteSize() <= size
    assert_same(proto, folded, {"c": np.array(True)})
