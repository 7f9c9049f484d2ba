"""Weights of integer products, and of the nodes that scale their sums.

Mul(Cast(MatMulInteger(Q(x), q)), sx s)          q s
QLinearMatMul(x, sx, zx, q, s, z, sy, zy)        (q - z) s
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.effective.base import Effective, followed, linear_steps

_SCALED = ("Cast", "Mul")
_FARTHEST = 4  # nodes between DynamicQuantizeLinear and the product


def integer_product(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """MatMulInteger, and what scales its sums."""
    codes, zero = node.input(1), node.input(3)
    scale = _input_scale(node.input(0))
    if codes is None or scale is None or not folded.is_constant(codes):
        return
    one = {scale: np.ones((), np.float32)}
    acc = node.output
    end = followed(acc, _SCALED, Folded(model, {**one, acc: np.zeros((1, 1), np.int32)}))

    def decode(other: Array | None) -> Array | None:
        array = folded.array(codes) if other is None else other
        shift = None if zero is None else folded.array(zero)
        if array is None or (zero is not None and shift is None):
            return None
        wide = array.astype(np.int32) - (0 if shift is None else shift.astype(np.int32))
        return Folded(model, {**one, acc: wide}).array(end)

    yield Effective(node, 1, end, decode, codes, linear_steps(model, codes, decode))


def _input_scale(value: Value | None) -> Value | None:
    """The scale that DynamicQuantizeLinear gives with what is multiplied."""
    for _ in range(_FARTHEST):
        maker = value.producer if value is not None else None
        if maker is None:
            return None
        if maker.op == "DynamicQuantizeLinear":
            return maker.outputs[1] if len(maker.outputs) > 1 else None
        if maker.op not in ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze"):
            return None
        value = maker.input(0)
    return None


def integer_convolution(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """ConvInteger, and what scales its sums."""
    codes, zero = node.input(1), node.input(3)
    scale = _input_scale(node.input(0))
    stored = folded.array(codes)
    if stored is None or codes is None or scale is None:
        return
    rank, rows = stored.ndim, stored.shape[0]
    ones = np.ones((1, rows, *(1,) * (rank - 2)), np.int32)
    known = Folded(model, {scale: np.ones((), np.float32), node.output: ones})
    end = followed(node.output, _SCALED, known)

    def decode(other: Array | None) -> Array | None:
        factor = known.array(end)
        shift = None if zero is None else folded.array(zero)
        return _affine(folded.array(codes) if other is None else other, shift, factor)

    yield Effective(node, 1, end, decode, codes, linear_steps(model, codes, decode))


def _affine(array: Array | None, zero: Array | None, scale: Array | None) -> Array | None:
    """(q - z) s with scales along the first axis."""
    if array is None or scale is None:
        return None
    shape = (-1, *(1,) * (array.ndim - 1))
    wide = array.astype(np.int32)
    if zero is not None:
        wide = wide - zero.astype(np.int32).reshape(shape)
    return np.asarray(wide.astype(np.float32) * scale.reshape(-1).astype(np.float32).reshape(shape))


@dataclass(frozen=True)
class Slots:
    """Where an operator has codes, scale and zero point; `rows_first`: scales along axis 0."""

    codes: int
    scale: int
    zero: int
    rows_first: bool = False

    def __call__(self, model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
        """Its weight, where the codes are stored."""
        codes, scale, zero = (node.input(at) for at in (self.codes, self.scale, self.zero))
        if codes is None or not folded.is_constant(codes):
            return
        turned = self.rows_first or bool(node.attribute("transB", 0))

        def decode(other: Array | None) -> Array | None:
            array = folded.array(codes) if other is None else other
            factor, shift = folded.array(scale), folded.array(zero)
            if array is None or factor is None or (zero is not None and shift is None):
                return None
            ones = (1,) * (array.ndim - 1)
            place = (-1, *ones) if turned else (*ones, -1)
            wide = array.astype(np.int32)
            if shift is not None:
                wide = wide - shift.astype(np.int32).reshape(place)
            return np.asarray(wide.astype(np.float32) * factor.reshape(place))

        yield Effective(
            node, self.codes, node.output, decode, codes, linear_steps(model, codes, decode)
        )
