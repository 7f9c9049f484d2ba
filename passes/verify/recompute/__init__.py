"""Low-bit operators of the runtime, recomputed without it: one row an operator."""

from onnx_compress.passes.verify.recompute.blocks import gather_block_quantized, matmul_nbits
from onnx_compress.passes.verify.recompute.convolution import conv_integer, qlinear_conv
from onnx_compress.passes.verify.recompute.elementwise import ELEMENTWISE
from onnx_compress.passes.verify.recompute.products import (
    dynamic_matmul,
    matmul_integer,
    matmul_integer_to_float,
    qgemm,
    qlinear_matmul,
)
from onnx_compress.passes.verify.recompute.quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    quantize_linear,
)
from onnx_compress.passes.verify.recompute.way import Fit, Inputs, Recompute, Way, fit

RECOMPUTED: dict[str, Recompute] = {
    "QuantizeLinear": quantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "com.microsoft.QuantizeLinear": quantize_linear,
    "com.microsoft.DequantizeLinear": dequantize_linear,
    "MatMulInteger": matmul_integer,
    "ConvInteger": conv_integer,
    "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
    "com.microsoft.QGemm": qgemm,
    "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_matmul,
    "com.microsoft.MatMulNBits": matmul_nbits,
    "com.microsoft.GatherBlockQuantized": gather_block_quantized,
    **ELEMENTWISE,
}

# low-bit operators that are not recomputed, so that a report can say so
OTHERS = frozenset(
    f"com.microsoft.{op}"
    for op in "DynamicQuantizeLSTM QAttention QLinearAveragePool QLinearReduceMean QLinearSoftmax "
    "QLinearConv QLinearWhere QEmbedLayerNormalization QMoE MatMulBnb4 MatMulFpQ4".split()
)

__all__ = ["OTHERS", "RECOMPUTED", "Fit", "Inputs", "Recompute", "Way", "fit"]
