"""Statistics of what flows through a model, collected in one look at the data."""

from onnx_compress.passes.statistics.collect import Statistics, collect
from onnx_compress.passes.statistics.cross import CrossMoment
from onnx_compress.passes.statistics.frequency import Frequency
from onnx_compress.passes.statistics.histogram import Counts, Histogram
from onnx_compress.passes.statistics.moment import Mean, Moment, Moments
from onnx_compress.passes.statistics.reach import Ends, Reach
from onnx_compress.passes.statistics.request import Look
from onnx_compress.passes.statistics.spread import Directions, Spread

__all__ = [
    "Counts",
    "CrossMoment",
    "Directions",
    "Ends",
    "Frequency",
    "Histogram",
    "Look",
    "Mean",
    "Moment",
    "Moments",
    "Reach",
    "Spread",
    "Statistics",
    "collect",
]
