"""Inputs added to a copy of a model, so that it can be run in many ways without loading it anew."""

from onnx import ValueInfoProto

from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Value


def add_input(model: Model, stem: str, element: int) -> Value:
    """One more input of the main graph, of an element type and any shape."""
    value = Value(model.fresh(stem), model.graph)
    info = ValueInfoProto(name=value.name)
    info.type.tensor_type.elem_type = element
    value.is_input, value.info = True, info
    model.graph.inputs.append((value, info))
    model.edits += 1
    return value
