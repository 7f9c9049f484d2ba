"""Checking results: soundness, interface, distance from the original."""

from onnx_compress.passes.verify.check import check, exact_db
from onnx_compress.passes.verify.quality import OutputQuality, Quality
from onnx_compress.passes.verify.reference import Reference
from onnx_compress.passes.verify.samples import draw

__all__ = ["OutputQuality", "Quality", "Reference", "check", "draw", "exact_db"]
