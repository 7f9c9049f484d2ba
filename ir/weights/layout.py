"""A weight as a matrix:  [groups, rows, columns], rows = output features, columns = inputs.

array --reshape(split)--> --transpose(order)--> --reshape(groups, rows, columns)--> matrix
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.graph.elements import Array

_WIDE = 16  # numbers a kernel must have to be worth a scale of its own


@dataclass(frozen=True)
class Layout:
    """Where the axes of an operand are.

    `channel_axes` are the axes of the operand that stand for output features (and groups): each
    position along them may have a scale of its own.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    groups: int
    rows: int
    columns: int
    channel_axes: tuple[int, ...]

    def matrix(self, array: Array) -> Array:
        """The operand as [groups, rows, columns]."""
        turned = array.reshape(self.split).transpose(self.order)
        return turned.reshape(self.groups, self.rows, self.columns)

    def restore(self, matrix: Array) -> Array:
        """Inverse of `matrix`."""
        turned = matrix.reshape([self.split[axis] for axis in self.order])
        return turned.transpose(np.argsort(self.order)).reshape(self.shape)


def rows_first(shape: tuple[int, ...], groups: int = 1) -> Layout:
    """(G * R, columns...): Conv, Gemm with transB."""
    rows = shape[0] // groups
    columns = prod(shape[1:])
    return Layout(shape, (groups, rows, columns), (0, 1, 2), groups, rows, columns, (0,))


def columns_first(shape: tuple[int, ...]) -> Layout:
    """(batch..., columns, rows): the second operand of MatMul."""
    *batch, columns, rows = shape
    groups = prod(batch)
    axes = (*range(len(batch)), len(shape) - 1)
    return Layout(shape, (groups, columns, rows), (0, 2, 1), groups, rows, columns, axes)


def batched_rows(shape: tuple[int, ...]) -> Layout:
    """(batch..., rows, columns): the first operand of MatMul, and the weights of LSTM."""
    *batch, rows, columns = shape
    groups = prod(batch)
    axes = tuple(range(len(shape) - 1))
    return Layout(shape, (groups, rows, columns), (0, 1, 2), groups, rows, columns, axes)


def transposed_convolution(shape: tuple[int, ...], groups: int) -> Layout:
    """(G * columns, rows, kernel...): ConvTranspose."""
    inputs, rows, *kernel = shape
    inputs //= groups
    split = (groups, inputs, rows, prod(kernel))
    # with groups, rows of different groups share axis 1, and axis 0 tells the groups apart
    axes: tuple[int, ...] = (1,)
    if groups > 1:
        axes = (0, 1) if rows > 1 and prod(kernel) >= _WIDE else (0,)
    return Layout(shape, split, (0, 2, 1, 3), groups, rows, inputs * prod(kernel), axes)


def along(shape: tuple[int, ...], axis: int) -> Layout:
    """Rows along one axis, everything else columns: Gather."""
    order = (axis, *(other for other in range(len(shape)) if other != axis))
    rows = shape[axis]
    return Layout(shape, shape, order, 1, rows, prod(shape) // max(rows, 1), (axis,))
