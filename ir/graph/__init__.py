"""The graph: a view over the ONNX protos, edited by verbs that keep it right."""

from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.files import from_proto, load, to_bytes, to_proto
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.staged import save
from onnx_compress.ir.graph.view import Graph, Node, Value

__all__ = [
    "Graph",
    "Model",
    "Node",
    "Value",
    "clone",
    "from_proto",
    "load",
    "save",
    "to_bytes",
    "to_proto",
]
