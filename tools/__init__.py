"""onnx-compress: makes ONNX models smaller and faster, and checks the result.

from onnx_compress import compress

result = compress("in.onnx", "prune,quant(bits=8)", calibration="data.npz", out="out.onnx")
print(result.report.ratio, result.report.error)
"""

from onnx_compress.comparison import Comparison, compare
from onnx_compress.compressor import compress, plan
from onnx_compress.inspection import Inspection, inspect
from onnx_compress.ir.errors import CompressError
from onnx_compress.profiling import profile
from onnx_compress.result import Result, Summary
from onnx_compress.verification import Verification, verify

__all__ = [
    "Comparison",
    "CompressError",
    "Inspection",
    "Result",
    "Summary",
    "Verification",
    "compare",
    "compress",
    "inspect",
    "plan",
    "profile",
    "verify",
]
