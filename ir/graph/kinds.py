"""The kinds of model that people have: a path, a ModelProto, a graphsurgeon Graph, our Model."""

import sys
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnx_compress.ir.errors import LoadError
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.model import Model


def read(thing: Any) -> tuple[Model, Path | None]:
    """A model of its own, and the file it came from if it did. `thing` is never changed."""
    if isinstance(thing, Model):
        return clone(thing), None
    if isinstance(thing, ModelProto):
        return files.from_proto(thing), None
    if isinstance(thing, str | Path):
        return files.load(thing), Path(thing)
    if _is_gs(thing):
        from onnx_compress.ir.graph import gs

        return gs.from_gs(thing), None
    hint = "give a path, a ModelProto, an onnx-graphsurgeon Graph or a Model"
    raise LoadError(f"a model cannot be read from {type(thing).__name__}", hint)


def like(thing: Any, model: Model, out: Path | None) -> Any:
    """The model as the kind that `thing` is; for a path, `out`, or else a ModelProto."""
    if isinstance(thing, Model):
        return model
    if isinstance(thing, str | Path) and out is not None:
        return out
    if _is_gs(thing):
        from onnx_compress.ir.graph import gs

        return gs.to_gs(model)
    return files.to_proto(model)


def _is_gs(thing: Any) -> bool:
    """Without importing graphsurgeon: who has one of its graphs has imported it."""
    module = sys.modules.get("onnx_graphsurgeon")
    return module is not None and isinstance(thing, module.Graph)
