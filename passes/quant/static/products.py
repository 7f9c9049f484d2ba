"""Products by a stored matrix, as ONNX Runtime makes one operator of bytes of them.

    MatMul(x, W)        QLinearMatMul, or MatMulIntegerToFloat where it gives floats
    Gemm(x, W, b)       QGemm, which may give floats, too; b in int32
    MatMul(x, W) + b    the same, written as a Gemm

Of MatMul and Add the runtime makes a Gemm by itself, if it can, but with a bias of floats, and that
it computes in floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.inference import TensorType
from onnx_compress.ir.graph.patterns import No, sole_consumer
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms.static import BIAS
from onnx_compress.ir.weights.path import is_stored, stored_floats

Types = Mapping[Value, TensorType]


def product(weight: Weight) -> Use | None:
    """The one product in the main graph that has this float32 matrix on its right, if that is all.

    Of a Gemm, nothing is turned but the weight, and its bias is stored.
    """
    if not weight.sole_use or weight.dtype != "FLOAT":
        return None
    (use,) = weight.uses
    node = use.node
    plain = use.multiplied and use.slot == 1 and len(use.path.shape) == 2 and not use.path.casts
    if not plain or node.graph is not weight.model.graph or is_stored(weight.model, node.input(0)):
        return None
    bias = node.input(BIAS) if node.op == "Gemm" else None
    stored = bias is None or row_of(weight.model, bias, use.layout.rows) is not None
    return use if stored and not node.attribute("transA", 0) else None


def row_of(model: Model, value: Value | None, size: int) -> Array | None:
    """[size], what is added to each row of a product; None where it is not stored, or no row."""
    array = stored_floats(model, value)
    if array is None or array.dtype != np.float32 or array.size not in (1, size):
        return None
    if array.shape and array.shape[-1] != array.size:
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (size,)))


@dataclass(frozen=True)
class Gemm:
    """A product that is written as a Gemm without factors.

    `bias`: [rows]. `behind`: nodes that it takes in, up to the Add. `lead`: the axes before the
    last, -1 for an open one, where there are more than two in all. `alpha`: goes into the matrix.
    """

    bias: Array | None
    behind: tuple[Node, ...] = ()
    lead: tuple[int, ...] = ()
    alpha: float = 1.0


def gemm(model: Model, use: Use, types: Types) -> Gemm | None:
    """How a product becomes a Gemm; None for a MatMul that stays one, which nothing is added to.

    `types`: as they are for all inputs.
    """
    node, rows = use.node, use.layout.rows
    if node.op == "Gemm":
        row = row_of(model, node.input(BIAS), rows)
        beta = np.float32(node.attribute("beta", 1.0))
        bias = None if row is None else row * beta
        return Gemm(bias, alpha=node.attribute("alpha", 1.0))
    lead = _leading(types, node.input(0))
    behind = _up_to_add(node)
    if lead is None or not behind:
        return None
    before, last = (behind[-2] if len(behind) > 1 else node).output, behind[-1]
    other = last.input(1 if last.input(0) is before else 0)
    known = types.get(other) if other is not None else None
    deep = known is None or known.shape is None or len(known.shape) > len(lead) + 1
    bias = None if deep else row_of(model, other, rows)
    flat = () if len(lead) == 1 else lead
    return Gemm(bias, () if bias is None else behind, flat)


def _up_to_add(node: Node) -> tuple[Node, ...]:
    """What alone reads a product, over Identity, to an Add; nothing where there is none."""
    found: list[Node] = []
    while True:
        reader = sole_consumer((found[-1] if found else node).output, "Add", "Identity")
        if isinstance(reader, No):
            return ()
        found.append(reader)
        if reader.op == "Add":
            return tuple(found)


def _leading(types: Types, value: Value | None) -> tuple[int, ...] | None:
    """The axes before the last, -1 for an open one; None where several are open, or all are."""
    known = types.get(value) if value is not None else None
    if known is None or not known.shape:
        return None
    axes = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in known.shape[:-1])
    return axes if axes and axes.count(-1) <= 1 and 0 not in axes else None
