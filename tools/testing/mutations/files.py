"""The same model in files: weights beside it.

No mutation of a ModelProto, since data in files mean nothing without a folder.
"""

from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.external_data_helper import set_external_data

from onnx_compress.testing.mutations.base import FLOATS, copy, graphs

_PLACE = "model.data"


def saved_externally(model: ModelProto, folder: Path) -> Path:
    """Save a model, with all its stored floats, large or small, in a file beside it.

    Gives its path. `onnx_compress.ir.graph.load` reads it, or `onnx.load(path,
    load_external_data=False)` for what takes a ModelProto and a folder.
    """
    out = copy(model)
    inner = list(graphs(out.graph))
    # ONNX Runtime needs these to find shapes, and does not look for them in files
    resizes = [node for graph in inner for node in graph.node if node.op_type == "Resize"]
    small = {name for node in resizes for name in node.input[1:]}
    for graph in inner:
        for tensor in graph.initializer:
            if tensor.data_type in FLOATS and tensor.raw_data and tensor.name not in small:
                set_external_data(tensor, _PLACE)
    path = folder / "model.onnx"
    onnx.save_model(out, path)
    return path
