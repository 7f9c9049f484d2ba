"""Low-bit operators of the runtime, recomputed without it: one row an operator."""

from onnx_compress.passes.verify.recompute.blocks import gather_block_quantized, matmul_nbits_node
from onnx_compress.passes.verify.recompute.convolution import conv_integer_node, qlinear_conv
from onnx_compress.passes.verify.recompute.elementwise import ELEMENTWISE
from onnx_compress.passes.verify.recompute.products import (
    dynamic_matmul,
    matmul_integer_node,
    matmul_integer_to_float,
    qgemm,
    qlinear_matmul,
)
from onnx_compress.passes.verify.recompute.quantize import (
    dequantize_linear_node,
    dynamic_quantize_linear,
    quantize_linear_node,
)
from onnx_compress.passes.verify.recompute.way import Fit, Inputs, Recompute, Way, fit

RECOMPUTED: dict[str, Recompute] = {
    "QuantizeLinear": quantize_linear_node,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "DequantizeLinear": dequantize_linear_node,
    "com.microsoft.QuantizeLinear": quantize_linear_node,
    "com.microsoft.DequantizeLinear": dequantize_linear_node,
    "MatMulInteger": matmul_integer_node,
    "ConvInteger": conv_integer_node,
    "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
    "com.microsoft.QLinearConv": qlinear_conv,
    "com.microsoft.QGemm": qgemm,
    "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_matmul,
    "com.microsoft.MatMulNBits": matmul_nbits_node,
    "com.microsoft.GatherBlockQuantized": gather_block_quantized,
    **ELEMENTWISE,
}

# low-bit operators that are not recomputed, so that a report can say so
OTHERS = frozenset(
    f"com.microsoft.{op}"
    for op in "DynamicQuantizeLSTM QAttention QLinearAveragePool QLinearReduceMean QLinearSoftmax "
    "QLinearWhere QEmbedLayerNormalization QMoE MatMulBnb4 MatMulFpQ4".split()
)

__all__ = ["OTHERS", "RECOMPUTED", "Fit", "Inputs", "Recompute", "Way", "fit"]
