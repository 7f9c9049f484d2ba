"""A weight multiplied, as its use sees it:  [groups, rows, columns] * factor, stored as it was."""

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights import Weight


def multiply(weight: Weight, factor: Array) -> None:
    """By what spreads over [groups, rows, columns] of the one use of a weight."""
    (use,) = weight.uses
    layout = use.layout
    # a number of the matrix is found by what its place becomes on the way
    place = use.matrix(np.arange(weight.size).reshape(weight.shape)).reshape(-1)
    spread = np.empty(weight.size)
    whole = (layout.groups, layout.rows, layout.columns)
    spread[place] = np.broadcast_to(factor, whole).reshape(-1)
    array = weight.array()
    new = (array.astype(np.float64) * spread.reshape(weight.shape)).astype(array.dtype)
    weight.model.set_constant(weight.value, new)
