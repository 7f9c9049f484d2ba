"""Which operator sets a model can be raised to."""

from collections.abc import Iterable

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import Model, clone, opset
from onnx_compress.passes.base import Context


def reachable(model: Model, context: Context, asked: Iterable[int]) -> tuple[int, str]:
    """The newest of the operator sets asked for, or that which it has, and why no newer one."""
    limit = context.target.maximum_opset
    refused = ""
    for version in sorted({*asked}, reverse=True):
        if model.opset() >= version:
            break
        if limit and version > limit:
            continue
        trial = clone(model)
        try:
            raise_to(trial, context, version)
        except UnsupportedError as error:
            refused = refused or str(error)
            continue
        return version, refused
    return model.opset(), refused


def raise_to(model: Model, context: Context, version: int) -> None:
    """Raise it, on a model that may be thrown away. Raises UnsupportedError."""
    opset.raise_to(model, version, Shapes(model, context.sample).types)
