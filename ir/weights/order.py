"""Order: the way from a stored tensor to the rows of a matrix, and back by nodes.

    [512, 64, 3, 3]  --reshape-->  [512, 576]                    Conv
    [384, 1536]      --transpose-->  [1536, 384]                 MatMul
    [6, 4, 2, 2]     --reshape, transpose, reshape-->  [4, 12]   ConvTranspose in two groups

What an operator sees as [groups, rows, columns] is taken as [groups * rows, columns].
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.weight import Use

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Move:
    """One step: axes permuted by `perm`, or the same numbers in another shape."""

    before: Shape
    after: Shape
    perm: Shape | None = None


@dataclass(frozen=True)
class Order:
    """From `stored` over `moves` to `rows` x `columns`. Equal orders put numbers alike."""

    stored: Shape
    rows: int
    columns: int
    moves: tuple[_Move, ...]

    def matrix(self, array: Array) -> Array:
        """[rows, columns] of what is stored."""
        for move in self.moves:
            array = array.reshape(move.after) if move.perm is None else array.transpose(move.perm)
        return array

    def restore(self, matrix: Array) -> Array:
        """Inverse of `matrix`."""
        for move in reversed(self.moves):
            if move.perm is None:
                matrix = matrix.reshape(move.before)
            else:
                matrix = matrix.transpose(np.argsort(move.perm))
        return matrix

    def emit(self, b: Builder, value: Value, flat: bool) -> Value:
        """`restore` as nodes. `flat`: whether the value has the shape [rows, columns] already."""
        shape: Shape | None = (self.rows, self.columns) if flat else None
        for move in reversed(self.moves):
            if move.perm is None:
                value, shape = _reshaped(b, value, move.before), move.before
                continue
            if shape != move.after:
                value = _reshaped(b, value, move.after)
            value = b("Transpose", value, perm=[int(axis) for axis in np.argsort(move.perm)])
            shape = move.before
        return value if shape == self.stored else _reshaped(b, value, self.stored)


def order_of(shape: Shape, use: Use | None) -> Order:
    """That of a use of a tensor of this shape; without one, rows lie along the first axis."""
    if use is None:
        rows = shape[0] if shape else 1
        return _order(shape, [(None, (rows, prod(shape[1:])))])
    layout = use.layout
    steps = [(step.perm, step.shape) for step in use.path.steps if step.moves]
    turned = tuple(layout.split[axis] for axis in layout.order)
    rows = layout.groups * layout.rows
    steps += [(None, layout.split), (layout.order, turned), (None, (rows, layout.columns))]
    return _order(shape, steps)


def _order(stored: Shape, steps: list[tuple[Shape | None, Shape]]) -> Order:
    moves: list[_Move] = []
    shape = stored
    for perm, after in steps:
        if perm is not None and _keeps(perm, shape):
            perm = None
        last = moves[-1] if moves else None
        if last is not None and perm is None and last.perm is None:
            moves[-1] = _Move(last.before, after)
        elif last is not None and perm is not None and last.perm is not None:
            moves[-1] = _Move(last.before, after, tuple(last.perm[axis] for axis in perm))
        else:
            moves.append(_Move(shape, after, perm))
        shape = after
        before, perm = moves[-1].before, moves[-1].perm
        if before == after and (perm is None or _keeps(perm, before)):
            moves.pop()
    return Order(stored, shape[0], shape[1], tuple(moves))


def _keeps(perm: Shape, shape: Shape) -> bool:
    """Whether only axes of one number change places."""
    wide = [axis for axis in perm if shape[axis] > 1]
    return wide == sorted(wide)


def _reshaped(b: Builder, value: Value, shape: Shape) -> Value:
    return b("Reshape", value, b.constant(np.array(shape, np.int64), "shape"))
