"""Checking results: soundness, interface, distance from the original."""

from onnx_compress.passes.verify.check import EXACT_DB, check
from onnx_compress.passes.verify.quality import OutputQuality, Quality
from onnx_compress.passes.verify.reference import Reference
from onnx_compress.passes.verify.samples import draw

__all__ = ["EXACT_DB", "OutputQuality", "Quality", "Reference", "check", "draw"]
