"""Quantization of weights."""

from onnx_compress.passes.quant.quant import Quant

__all__ = ["Quant"]
