"""Passes, and what they stand on."""

from onnx_compress.passes.base import Context, Entry, Event, Pass, Phase, Report, option
from onnx_compress.passes.graphsurgeon import GraphSurgeonPass
from onnx_compress.passes.pipeline import Outcome, Pipeline, Stage
from onnx_compress.passes.target import Target

__all__ = [
    "Context",
    "Entry",
    "Event",
    "GraphSurgeonPass",
    "Outcome",
    "Pass",
    "Phase",
    "Pipeline",
    "Report",
    "Stage",
    "Target",
    "option",
]
