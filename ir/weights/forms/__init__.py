"""The forms that a weight may be stored in, and the readers of coded ones."""

from onnx_compress.ir.weights.forms.base import Coded, Form, Reader
from onnx_compress.ir.weights.forms.dequantize import spell_out
from onnx_compress.ir.weights.forms.stored import (
    READERS,
    Affine,
    Dense,
    Half,
    affine,
    minimum_opset,
)

__all__ = [
    "READERS",
    "Affine",
    "Coded",
    "Dense",
    "Form",
    "Half",
    "Reader",
    "affine",
    "minimum_opset",
    "spell_out",
]
