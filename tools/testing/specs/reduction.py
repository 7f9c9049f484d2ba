"""Reductions, and operators along an axis."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Add, Spec


def _reduce(op: str, moved: int) -> Add:
    """`moved`: operator set from which the axes are an input."""

    def add(b: Builder, x: Known) -> Known:
        first = 1 if x.open else 0
        axis = b.integer(first, x.rank - 1)
        keep = b.integer(0, 1)
        axes = [axis - x.rank if b.flag() else axis]
        inputs, options = ([b.integers(*axes)], {}) if b.opset >= moved else ([], {"axes": axes})
        shape = (*x.shape[:axis], *[1] * keep, *x.shape[axis + 1 :])
        node = b.add(op, [x, *inputs], x, shape, keepdims=keep, options=options)
        if op != "ReduceSum":
            return node
        scale = b.constant(np.array(1 / max(x.shape[axis], 1), x.dtype))
        return b.add("Mul", [node, scale], node)

    return add


def _along(op: str, bounded: bool) -> Add:
    def add(b: Builder, x: Known) -> Known:
        axis = b.integer(1, x.rank - 1)
        place = axis - x.rank if b.flag() else axis
        return b.add(op, [x], x, degree=1 if bounded else None, axis=place)

    return add


def _sum_up(b: Builder, x: Known) -> Known:
    axis = b.constant(np.array(b.integer(1, x.rank - 1), np.int64))
    return b.add("CumSum", [x, axis], x, reverse=b.integer(0, 1))


def _largest(b: Builder, x: Known) -> Known:
    """The place of the largest number: an integer output."""
    shape = x.shape[:-1]
    return b.add("ArgMax", [x], x, shape, dtype=np.int64, axis=-1, keepdims=0)


def _roomy(known: Known) -> bool:
    return known.is_float and known.rank > (1 if known.open else 0)


def _wide(known: Known) -> bool:
    return known.is_float and known.rank > 1


REDUCTION = (
    *(
        Spec((op,), _roomy, _reduce(op, moved), since=11)
        for op, moved in (("ReduceMean", 18), ("ReduceMax", 18), ("ReduceMin", 18))
    ),
    Spec(("ReduceSum", "Mul"), _roomy, _reduce("ReduceSum", 13), since=11),
    Spec(("ReduceL2",), _roomy, _reduce("ReduceL2", 18), since=11),
    Spec(("Softmax",), _wide, _along("Softmax", True), since=13, keeps=True),
    Spec(("LogSoftmax",), _wide, _along("LogSoftmax", False), since=13, keeps=True),
    Spec(("CumSum",), _wide, _sum_up, since=11, keeps=True),
    Spec(("ArgMax",), _wide, _largest, since=13),
)
