"""The newest operator set that a model can be raised to, of those that readers ask for."""

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import Model, clone, opset
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.passes.base import Context


def reachable(model: Model, context: Context) -> tuple[int, str]:
    """The newest operator set that readers may ask for, and why no newer one."""
    limit = context.target.maximum_opset
    asked = {reader.minimum_opset for reader in READERS.values()}
    refused = ""
    for version in sorted(asked, reverse=True):
        if model.opset() >= version:
            break
        if limit and version > limit:
            continue
        trial = clone(model)
        try:
            opset.raise_to(trial, version, Shapes(trial, context.sample).types)
        except UnsupportedError as error:
            refused = refused or str(error)
            continue
        return version, refused
    return model.opset(), refused
