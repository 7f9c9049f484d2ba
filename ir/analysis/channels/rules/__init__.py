"""What each operator does with channels: one small function an operator.

A rule asks for the axes that carry channels, and says which are the same. All other axes stay.
"""

from collections.abc import Callable

from onnx_compress.ir.analysis.channels.axes import Ports
from onnx_compress.ir.analysis.channels.rules import (
    bodies,
    elementwise,
    norms,
    pooling,
    products,
    recurrent,
    shapes,
)
from onnx_compress.ir.analysis.channels.symbols import Symbols

Rule = Callable[[Ports], None]
Sized = Callable[[Ports, Symbols], None]

_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split()
_REDUCED = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(elementwise.OPERATORS, elementwise.elementwise),
    **dict.fromkeys(_POOLS, pooling.pool),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCED), pooling.reduce),
    "ArgMax": pooling.reduce,
    "ArgMin": pooling.reduce,
    "BatchNormalization": norms.batch_norm,
    "Concat": shapes.concat,
    "Conv": products.conv,
    "ConvTranspose": products.conv_transpose,
    "CumSum": norms.along_axis,
    "DepthToSpace": shapes.depth_to_space,
    "DequantizeLinear": elementwise.coded,
    "Einsum": products.einsum,
    "Flatten": shapes.reshaped,
    "GRU": recurrent.recurrent,
    "Gather": shapes.gather,
    "Gemm": products.gemm,
    "GroupNormalization": norms.group_norm,
    "Hardmax": norms.softmax,
    "If": bodies.branches,
    "InstanceNormalization": norms.instance_norm,
    "LRN": norms.across_channels,
    "LSTM": recurrent.recurrent,
    "LayerNormalization": norms.layer_norm,
    "LogSoftmax": norms.softmax,
    "LpNormalization": norms.along_axis,
    "MatMul": products.matmul,
    "MeanVarianceNormalization": norms.across_channels,
    "Pad": shapes.pad,
    "QuantizeLinear": elementwise.coded,
    "RMSNormalization": norms.layer_norm,
    "RNN": recurrent.recurrent,
    "Slice": shapes.sliced,
    "Softmax": norms.softmax,
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Squeeze": shapes.reshaped,
    "Tile": shapes.tile,
    "TopK": norms.along_axis,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.reshaped,
}
# of those that are told sizes: they need to know where these come from
SIZED: dict[str, Sized] = {
    "ConstantOfShape": shapes.constant_of_shape,
    "Expand": shapes.expand,
    "Reshape": shapes.reshape,
    "Resize": pooling.resize,
    "Upsample": pooling.resize,
}
SIZE_SLOTS = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Resize": 3}
