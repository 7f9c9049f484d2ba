"""Folded: what constant expressions come to, without the runtime.

    codes --Cast--> --Sub--> --Mul--> w          folded[w]: the numbers of w

By numpy where that is simple, by onnx.reference otherwise; never by the runtime, so that both can
be held against each other. Values may be given numbers of their own: what a region makes of the
identity, or of all indices, is the weight that it stands for.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnx_compress.ir.graph.document import DEFAULT_DOMAINS
from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.fixed import RANDOM
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value

_DEEPEST = 400  # nodes of one expression
_KEPT = 1 << 16  # bytes of a result that is kept for other expressions


class Folded:
    """Numbers of constant values of one model, which must not be changed meanwhile.

    `given`: numbers of values that are not constant, or are to be taken as others.
    """

    def __init__(self, model: Model, given: Mapping[Value, Array] | None = None) -> None:
        self.model, self.given = model, dict(given or {})
        self._known: dict[Value, bool] = dict.fromkeys(self.given, True)
        self._small: dict[Value, Array] = {}

    def is_constant(self, value: Value | None) -> bool:
        """Whether a value depends on nothing but constants and what was given."""
        if value is None:
            return False
        if value in self._known:
            return self._known[value]
        order = self._order(value)
        if order is None:
            self._known[value] = False
            return False
        for node in order:
            self._known.update(dict.fromkeys((v for v in node.outputs if v is not None), True))
        return True

    def array(self, value: Value | None) -> Array | None:
        """The numbers; None where they are not constant, or no reference can tell."""
        if value is None or not self.is_constant(value):
            return None
        order = self._order(value)
        if order is None:
            return None
        found: dict[Value, Array] = {}
        left = {v: len(v.uses) for node in order for v in node.inputs if v is not None}
        for node in order:
            inputs = [None if v is None else self._get(v, found) for v in node.inputs]
            results = _evaluated(self.model, node, inputs)
            if results is None:
                return None
            for made, result in zip(node.outputs, results, strict=False):
                if made is not None:
                    found[made] = result
                    if result.nbytes <= _KEPT:
                        self._small[made] = result
            for read in node.inputs:  # no longer needed: large ones go
                if read in found and read is not value:
                    left[read] -= 1
                    if not left[read]:
                        del found[read]
        return self._get(value, found)

    def _get(self, value: Value, found: Mapping[Value, Array]) -> Array | None:
        for known in (self.given, found, self._small):
            if value in known:
                return known[value]
        return self.model.constant(value)

    def _order(self, value: Value) -> list[Node] | None:
        """The nodes that compute a value, each after those it needs; None if it is not constant."""
        order: dict[Node, None] = {}
        stack = [(value, False)]
        while stack:
            at, ready = stack.pop()
            node = at.producer
            if at in self.given or at in self._small or self.model.tensor(at) is not None:
                continue
            if node is None or node.bodies or node.op in RANDOM or len(stack) > _DEEPEST:
                return None
            if self._known.get(at) is False or not any(v is not None for v in node.inputs):
                return None
            if ready:
                order.setdefault(node)
            elif node not in order:
                stack.append((at, True))
                stack += [(read, False) for read in reversed(node.inputs) if read is not None]
        return list(order)


def _evaluated(model: Model, node: Node, inputs: list[Array | None]) -> list[Array] | None:
    row = _ROWS.get(node.op)
    if row is not None:
        try:
            return [row(node, inputs)]
        except (ValueError, TypeError, IndexError, KeyError):
            return None
    if node.proto.domain not in DEFAULT_DOMAINS:
        return None
    from onnx_compress.ir.graph.evaluate import evaluate  # onnx.reference is slow to import

    return evaluate(model, node, inputs)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Node, list[Any]], Array]:
    def row(_: Node, inputs: list[Any]) -> Array:
        one, other = inputs
        return np.asarray(function(one, other), one.dtype)

    return row


def _cast(node: Node, inputs: list[Any]) -> Array:
    (array,) = inputs
    return np.asarray(array.astype(np_dtype(node.attribute("to"))))


def _transpose(node: Node, inputs: list[Any]) -> Array:
    return np.asarray(inputs[0].transpose(node.attribute("perm")))


def _gather(node: Node, inputs: list[Any]) -> Array:
    table, ids = inputs
    axis = node.attribute("axis", 0)
    return np.asarray(np.take(table, np.where(ids < 0, ids + table.shape[axis], ids), axis))


def _scatter(node: Node, inputs: list[Any]) -> Array:
    """Of one axis, which the reference does number by number."""
    data, places, updates = inputs
    if data.ndim != 1 or node.attribute("reduction", "none") != "none":
        raise ValueError("several axes")
    out = data.copy()
    out[np.where(places < 0, places + len(data), places)] = updates
    return np.asarray(out)


def _dequantize(node: Node, inputs: list[Any]) -> Array:
    """(q - z) * s, one rounding an operation; scales along an axis, or for blocks of it."""
    codes, scale, *rest = inputs
    zero = rest[0] if rest else None
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    dtype = scale.dtype
    narrow = dtype.itemsize < 4
    work = np.dtype(np.float32) if narrow else dtype
    out = codes.astype(np.int32) if codes.dtype.name.lstrip("u").startswith("int") else codes
    if zero is not None:
        out = out - _spread(zero, codes.shape, axis, block).astype(out.dtype)
    spread = _spread(scale, codes.shape, axis, block).astype(work)
    return np.asarray((out.astype(work) * spread).astype(dtype))


def _spread(part: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales or zero points so that they broadcast to the codes."""
    if part.size == 1 and part.ndim < 2:
        return part.reshape(())
    if block:
        wide = np.repeat(part, block, axis)
        return wide[tuple(slice(0, size) for size in shape)]
    return part.reshape([size if at == axis % len(shape) else 1 for at, size in enumerate(shape)])


_ROWS: dict[str, Callable[[Node, list[Any]], Array]] = {
    "Identity": lambda _, inputs: inputs[0],
    "Cast": _cast,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Transpose": _transpose,
    "Gather": _gather,
    "ScatterElements": _scatter,
    "DequantizeLinear": _dequantize,
}
