"""Checking results: soundness, interface, distance from the original."""

from onnx_compress.passes.verify.budget import Budget
from onnx_compress.passes.verify.check import check, exact_db
from onnx_compress.passes.verify.metric import Metric, measured, top1
from onnx_compress.passes.verify.quality import OutputQuality, Quality
from onnx_compress.passes.verify.reference import Reference
from onnx_compress.passes.verify.unverified import Unverified

__all__ = [
    "Budget",
    "Metric",
    "OutputQuality",
    "Quality",
    "Reference",
    "Unverified",
    "check",
    "exact_db",
    "measured",
    "top1",
]
