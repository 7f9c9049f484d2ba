"""The kinds of model that people have.

A path, a ModelProto, our Model; and without importing their libraries, for who has one of these
has: a graphsurgeon Graph, an onnx-ir Model, and what torch.onnx.export gives, an ONNXProgram.
"""

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
    if _is_a(thing, "onnx_graphsurgeon", "Graph"):
        from onnx_compress.ir.graph import gs

        return gs.from_gs(thing), None
    if _is_a(thing, "torch.onnx", "ONNXProgram"):
        return read(thing.model)
    if _is_a(thing, "onnx_ir", "Model"):
        from onnx_compress.ir.graph import onnx_ir

        return onnx_ir.from_onnx_ir(thing), None
    hint = "give a path, a ModelProto, a Model, or one of onnx-graphsurgeon, onnx-ir or torch.onnx"
    raise LoadError(f"a model cannot be read from {type(thing).__name__}", hint)


def like(thing: Any, model: Model, out: Path | None) -> Any:
    """The model as the kind that `thing` is; for a path, `out`, or else a ModelProto.

    For an ONNXProgram a new one, which shares the exported program with it.
    """
    if isinstance(thing, Model):
        return model
    if isinstance(thing, str | Path) and out is not None:
        return out
    if _is_a(thing, "onnx_graphsurgeon", "Graph"):
        from onnx_compress.ir.graph import gs

        return gs.to_gs(model)
    if _is_a(thing, "torch.onnx", "ONNXProgram"):
        return type(thing)(like(thing.model, model, None), thing.exported_program)
    if _is_a(thing, "onnx_ir", "Model"):
        from onnx_compress.ir.graph import onnx_ir

        return onnx_ir.to_onnx_ir(model)
    return files.to_proto(model)


def _is_a(thing: Any, module: str, name: str) -> bool:
    """Without importing the module: who has one of its objects has imported it."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(thing, kind)
