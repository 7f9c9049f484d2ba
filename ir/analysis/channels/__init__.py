"""Channels: which positions along which axes are the same feature, through a whole graph.

Conv -> Relu -> Conv: channel 3 is row 3 of the first weight, number 3 of its bias, and column 3
of the second weight. Taking it out cuts all three. Source: DepGraph (2301.12900), SPA (2403.18955).
"""

from onnx_compress.ir.analysis.channels.axes import Axes, Grid, Sum
from onnx_compress.ir.analysis.channels.find import Channels, Group, find_channels
from onnx_compress.ir.analysis.channels.remove import Twins, masked, remove, without

__all__ = [
    "Axes",
    "Channels",
    "Grid",
    "Group",
    "Sum",
    "Twins",
    "find_channels",
    "masked",
    "remove",
    "without",
]
