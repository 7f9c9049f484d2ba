"""The bridge to onnx-graphsurgeon, which stays at the edge: no gs object lives inside.

graphsurgeon aliases the protos it is given and drops what it does not know, so it gets a proto of
its own, and what it exports is taken as a new model.
"""

from typing import Any

import onnx_graphsurgeon

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.model import Model


def from_gs(graph: Any) -> Model:
    """A model from a gs.Graph, which is left as it is. Raises UnsupportedError."""
    try:
        return files.from_proto(onnx_graphsurgeon.export_onnx(graph))
    except (TypeError, ValueError, AttributeError) as error:
        hint = "graphsurgeon cannot write this graph; give the ONNX model instead"
        raise UnsupportedError(f"graphsurgeon fails to export it: {error}", hint) from error


def to_gs(model: Model) -> Any:
    """A new gs.Graph. Raises UnsupportedError for what graphsurgeon cannot read."""
    try:
        return onnx_graphsurgeon.import_onnx(files.to_proto(model))
    except (TypeError, ValueError, UnboundLocalError) as error:
        hint = "ask for a ModelProto or a file instead"
        raise UnsupportedError(f"graphsurgeon cannot import it: {error}", hint) from error
