"""Which operators have weights, in which slots, and where the axes are: one row an operator.

`multiplies` tells that the node computes input x weight as one matrix product over the last axis
of its other input, which the integer products of ONNX can replace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.layout import (
    Layout,
    along,
    batched_rows,
    columns_first,
    rows_first,
    transposed_convolution,
)

Shape = tuple[int, ...]
Read = Callable[[Node, Shape], Layout | No]


@dataclass(frozen=True)
class Operator:
    """Slots that may hold weights, and the layout of each."""

    slots: Mapping[int, Read]
    multiplies: frozenset[int] = field(default_factory=frozenset)
    gathers: bool = False


def _ranked(rank: int, read: Read) -> Read:
    def checked(node: Node, shape: Shape) -> Layout | No:
        return read(node, shape) if len(shape) >= rank else No(f"a weight of rank {len(shape)}")

    return checked


def _conv(node: Node, shape: Shape) -> Layout | No:
    groups = _groups(node, shape)
    return groups if isinstance(groups, No) else rows_first(shape, groups)


def _conv_transpose(node: Node, shape: Shape) -> Layout | No:
    groups = _groups(node, shape)
    return groups if isinstance(groups, No) else transposed_convolution(shape, groups)


def _groups(node: Node, shape: Shape) -> int | No:
    groups: int = node.attribute("group", 1)
    fine = groups > 0 and shape[0] % groups == 0
    return groups if fine else No(f"{shape[0]} channels in {groups} groups")


def _gemm_a(node: Node, shape: Shape) -> Layout | No:
    return columns_first(shape) if node.attribute("transA", 0) else rows_first(shape)


def _gemm_b(node: Node, shape: Shape) -> Layout | No:
    return rows_first(shape) if node.attribute("transB", 0) else columns_first(shape)


def _left(_: Node, shape: Shape) -> Layout | No:
    return batched_rows(shape)


def _right(_: Node, shape: Shape) -> Layout | No:
    return columns_first(shape)


def _gather(node: Node, shape: Shape) -> Layout | No:
    layout = along(shape, node.attribute("axis", 0) % len(shape))
    # one number a row, or one for each block, is no embedding: so the scales of a coded one look
    if layout.columns == 1 or (len(shape) > 3 and shape[-2:] == (1, 1)):
        return No("a table of single numbers")
    return layout


_CONV = Operator({1: _ranked(3, _conv)})
_RECURRENT = Operator({1: _ranked(3, _left), 2: _ranked(3, _left)})

DOMAINS = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "com.microsoft.nchwc",
)  # of known operators

# operators that read integer weights, and the slots of those: nothing is left to quantize there
QUANTIZED: dict[str, tuple[int, ...]] = {
    "MatMulInteger": (0, 1),
    "ConvInteger": (1,),
    "QLinearMatMul": (0, 3),
    "QLinearConv": (3,),
    "com.microsoft.QGemm": (3,),
    "com.microsoft.MatMulNBits": (1,),
    "com.microsoft.MatMulIntegerToFloat": (1,),
    "com.microsoft.DynamicQuantizeMatMul": (1,),
    "com.microsoft.DynamicQuantizeLSTM": (1, 2),
    "com.microsoft.QAttention": (1,),
    "com.microsoft.GatherBlockQuantized": (0,),
}

OPERATORS: dict[str, Operator] = {
    "Conv": _CONV,
    "com.microsoft.FusedConv": _CONV,
    "ConvTranspose": Operator({1: _ranked(3, _conv_transpose)}),
    "Gemm": Operator({0: _ranked(2, _gemm_a), 1: _ranked(2, _gemm_b)}, frozenset({1})),
    "MatMul": Operator({0: _ranked(2, _left), 1: _ranked(2, _right)}, frozenset({1})),
    "Gather": Operator({0: _ranked(2, _gather)}, gathers=True),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "com.microsoft.Attention": Operator({1: _ranked(2, _right)}),
}
