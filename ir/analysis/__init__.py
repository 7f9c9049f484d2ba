"""What can be said of a graph without running it: shapes, cost."""

from onnx_compress.ir.analysis.cost import Cost, cost
from onnx_compress.ir.analysis.shapes import Shapes

__all__ = ["Cost", "Shapes", "cost"]
