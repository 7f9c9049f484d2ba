"""Weights that a file lists among its inputs:

graph (image, conv1.weight = ..., conv1.bias = ...)  ->  graph (image)

As long as a caller may replace them, a runtime computes nothing with them when it loads. See
`Model.unlist` for which files are meant; where few of many are inputs, they stay so.
"""

from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Entry, Report


def close_inputs(model: Model) -> Report:
    """Weights are inputs no more, where most of them are."""
    text = "a weight, but an input as well: a constant now"
    return Report(tuple(Entry(value.name, text) for value in model.unlist()))
