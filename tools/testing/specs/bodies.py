"""Nodes with bodies: If and Loop. What is in them also uses what is outside."""

from functools import partial

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Spec, number

_DEEPEST = 2  # bodies in one another


def _inside(b: Builder, x: Known, count: int) -> Known:
    """A few nodes that keep type and shape."""
    for _ in range(count):
        fits = partial(_fits, b, x)
        if any(map(fits, b.rows)):
            x = b.fitting(b.rows, fits).add(b, x)
    return x


def _fits(b: Builder, x: Known, row: Spec) -> bool:
    return row.keeps and b.takes(x, row) and not (row.body and b.depth >= _DEEPEST)


def _if(b: Builder, x: Known) -> Known:
    if b.flag():
        limit = b.constant(np.array(b.one_of([-1e9, 1e9]), x.dtype))
        axes = list(range(x.rank))
        mean = _mean(b, x, axes)
        condition = b.add("Greater", [mean, limit], mean, (), dtype=np.bool_, open=False)
    else:
        condition = b.condition()
    bodies = {
        name: b.body(lambda: _own(b, _inside(b, x, b.integer(1, 2))), b.name(name))
        for name in ("then_branch", "else_branch")
    }
    found = b.add("If", [condition], x)
    b.scope.used.add(x.name)
    b.attach(bodies)
    return found


def _mean(b: Builder, x: Known, axes: list[int]) -> Known:
    if b.opset >= 18:
        inputs = [b.integers(*axes)] if axes else []
        return b.add("ReduceMean", [x, *inputs], x, (), open=False, keepdims=0)
    options = {"axes": axes} if axes else {}
    return b.add("ReduceMean", [x], x, (), open=False, keepdims=0, options=options)


def _own(b: Builder, x: Known) -> Known:
    """What a body gives out is made in it."""
    return b.add("Identity", [x], x)


def _loop(b: Builder, x: Known) -> Known:
    """A few rounds of something bounded; the state is carried."""
    trips = b.constant(np.array(b.integer(0, 3), np.int64))
    going = b.constant(np.array(True))
    round_ = Known(b.name("i"), np.dtype(np.int64), ())
    before = Known(b.name("go"), np.dtype(np.bool_), ())
    state = Known(b.name("s"), x.dtype, x.shape, x.open, 1)

    def make() -> Known:
        found = _inside(b, state, b.integer(1, 2))
        return b.add("Tanh", [found], found, degree=1)

    body = b.body(make, b.name("body"), [round_, before, state])
    body.output.insert(0, before.info())
    same = body.node.add(op_type="Identity", name=b.name("n"))
    same.input.append(before.name)
    same.output.append(b.name("v"))
    body.output[0].name = same.output[0]
    found = b.add("Loop", [trips, going, x], x, degree=max(x.degree, 1))
    b.attach({"body": body})
    return found


BODIES = (
    Spec(("If", "Greater", "ReduceMean", "Identity"), number, _if, since=13, keeps=True, body=True),
    Spec(("Loop", "Tanh", "Identity"), number, _loop, since=13, keeps=True, body=True),
)
