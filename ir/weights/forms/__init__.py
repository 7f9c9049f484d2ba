"""The forms that a weight may be stored in, and the readers of coded ones."""

from onnx_compress.ir.weights.forms.base import Coded, Form, Reader
from onnx_compress.ir.weights.forms.dequantize import spell_out
from onnx_compress.ir.weights.forms.packed import Packed, fit_half
from onnx_compress.ir.weights.forms.readers import PACKED_READERS
from onnx_compress.ir.weights.forms.sparse import Sparse, thin_out
from onnx_compress.ir.weights.forms.stored import (
    READERS,
    Affine,
    Dense,
    Half,
    affine,
    minimum_opset,
)

__all__ = [
    "PACKED_READERS",
    "READERS",
    "Affine",
    "Coded",
    "Dense",
    "Form",
    "Half",
    "Packed",
    "Reader",
    "Sparse",
    "affine",
    "fit_half",
    "minimum_opset",
    "spell_out",
    "thin_out",
]
