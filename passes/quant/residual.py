"""Residual: two thin matrices beside a coded weight give back part of what the codes lose.

    y = V x    ->    y = V x + A (B x)        A [R, r], B [r, K], stored in float16
                                              |(W - V - A B) x|^2 least, codes and factors in turn

Of MatMul and Gemm. Sources: LQER (2402.02446), EoRA (2410.21271).
"""

from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No, sole_consumer
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms.base import FLOAT
from onnx_compress.ir.weights.forms.stored import LARGEST_HALF
from onnx_compress.ir.weights.path import is_stored
from onnx_compress.passes.solvers.lowrank import residual_low_rank

_LEAST = 4  # times fewer numbers than the weight has


@dataclass(frozen=True)
class Factors:
    """A [R, r] and B [r, K], float16: W ~ V + A B."""

    left: Array
    right: Array

    @staticmethod
    def of(rest: Array, moment: Array | None, rank: int) -> "Factors":
        """Of what is missing, [R, K], where outputs feel it most. `moment`: [K, K]."""
        known = np.ones(rest.shape[1]) if moment is None else moment
        left, right = residual_low_rank(rest, np.zeros_like(rest), known, rank)
        scale = np.sqrt(_largest(left) / _largest(right))  # both alike: float16 is narrow
        return Factors(_half(left / scale), _half(right * scale))

    @property
    def product(self) -> Array:
        """[R, K], float64."""
        return self.left.astype(np.float64) @ self.right.astype(np.float64)

    def add(self, model: Model, use: Use) -> None:
        """Beside a product that reads the weight."""
        node = use.node
        b = Builder(model, node.graph, (node.name or node.op)[-24:].lstrip("/._"), node)
        alpha = float(node.attribute("alpha", 1.0)) if node.op == "Gemm" else 1.0
        inner, outer = (
            b("Cast", b.constant(np.ascontiguousarray(array.T), suffix), to=FLOAT)
            for array, suffix in ((self.right, "right"), (_half(self.left * alpha), "left"))
        )
        change = b("MatMul", b("MatMul", node.input(0), inner), outer)
        model.insert_behind(node.output, b("Add", change, change))


def uncorrected(weight: Weight, rank: int) -> str:
    """Why no factors of this rank can be beside the product of a weight; "" where they can."""
    use = weight.uses[0] if weight.sole_use else None
    if use is None or use.node.op not in ("MatMul", "Gemm") or use.slot != 1:
        return "that goes with MatMul and Gemm"
    layout = use.layout
    if layout.groups > 1 or use.path.casts or weight.dtype != "FLOAT":
        return "that is for one matrix of float32"
    if use.node.attribute("transA", 0) or is_stored(weight.model, use.node.input(0)):
        return "its input is turned, or a constant"
    if rank * (layout.rows + layout.columns) * _LEAST > weight.size:
        return f"too small for rank {rank}"
    return ""


def corrects(weight: Weight) -> bool:
    """Whether it is a factor, in float16, beside the product of the same input."""
    if not weight.sole_use or weight.dtype != "FLOAT16":
        return False
    node = weight.uses[0].node
    after = sole_consumer(node.output, "MatMul")
    first, second = (_before(node), node) if isinstance(after, No) else (node, after)
    if first is None or first.op != "MatMul" or second.op != "MatMul":
        return False
    added = sole_consumer(second.output, "Add")
    if isinstance(added, No):
        return False
    others = [v.producer for v in added.inputs if v is not None and v is not second.output]
    return any(other is not None and other.input(0) is first.input(0) for other in others)


def _before(node: Node) -> Node | None:
    value = node.input(0)
    return None if value is None else value.producer


def _largest(array: Array) -> float:
    return max(float(np.abs(array).max(initial=0)), 1e-30)


def _half(array: Array) -> Array:
    return np.clip(array, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
