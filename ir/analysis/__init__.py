"""What can be said of a graph without running it: shapes, cost."""

from onnx_compress.ir.analysis.cost import Cost, cost
from onnx_compress.ir.analysis.ranges import eight_bit_snr
from onnx_compress.ir.analysis.shapes import Shapes

__all__ = ["Cost", "Shapes", "cost", "eight_bit_snr"]
