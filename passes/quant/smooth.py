"""SmoothQuant: outliers of a product's input move into its weight, before the input becomes bytes.

    x W    ->    (x * 1/s) (s W)            s: see evening.py

By an inserted Mul, once for all products of one input, since what makes x is often read by a
residual too. Source: Xiao et al., 2211.10438.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import before_identity
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.evening import evened
from onnx_compress.passes.statistics import Reach, collect


@dataclass
class Smoothed:
    """What was inserted: `scales` by the value that it is an input of products for.

    `read`: the products, and what they read before: the value itself, or behind Identity.
    """

    model: Model
    scales: dict[Value, Array] = field(default_factory=dict)
    made: dict[Value, Value] = field(default_factory=dict)
    weights: dict[Value, list[Weight]] = field(default_factory=dict)
    read: dict[Value, list[tuple[Node, Value | None]]] = field(default_factory=dict)

    def undo(self, wanted: Mapping[Weight, bool]) -> None:
        """Take out what no product with an input in bytes reads. `wanted`: of which there are."""
        for value, weights in self.weights.items():
            if any(wanted.get(weight, False) for weight in weights):
                remove_unused(self.model, [old for _, old in self.read[value]])
                continue
            for weight in weights:
                _scale(weight, 1 / self.scales[value])
            for node, old in self.read[value]:
                self.model.set_input(node, 0, old)
            remove_unused(self.model, [self.made[value]])
            del self.made[value]

    def notes(self) -> tuple[str, ...]:
        """For the report."""
        count = len(self.made)
        return (f"{count} inputs of products smoothed into their weights",) if count else ()


def smooth(model: Model, weights: Sequence[Weight], context: Context) -> Smoothed:
    """Smooth the inputs that only these weights are multiplied with, in MatMul and Gemm."""
    found = Smoothed(model)
    groups = _groups(model, weights)
    if not context.fit or not groups:
        return found
    requests = {value: Reach(Tap(uses[0].node, 0)) for value, (_, uses) in groups.items()}
    try:
        seen = collect(model, list(requests.values()), context.fit, threads=2, cache=context.cache)
    except CalibrationError:
        return found
    for value, (own, uses) in groups.items():
        parts = zip(own, uses, strict=True)
        scale = evened(seen[requests[value]], [use.matrix(w.array())[0] for w, use in parts])
        if scale is None:
            continue
        for weight in own:
            _scale(weight, scale)
        b = Builder(model, model.graph, value.name[-24:].lstrip("/._"), uses[0].node)
        inverse = b.constant((1 / scale).astype(np.float32), "smooth")
        out = b("Mul", value, inverse)
        for use in uses:
            found.read.setdefault(value, []).append((use.node, use.node.input(0)))
            model.set_input(use.node, 0, out)
        found.scales[value], found.made[value], found.weights[value] = scale, out, list(own)
    return found


def _groups(model: Model, weights: Sequence[Weight]) -> dict[Value, tuple[list[Weight], list[Use]]]:
    """By input, the products that may be smoothed."""
    found: dict[Value, tuple[list[Weight], list[Use]]] = {}
    for weight in weights:
        if not weight.sole_use or weight.dtype != "FLOAT":
            continue
        (use,) = weight.uses
        value = before_identity(use.node.input(0))
        plain = use.multiplied and use.layout.groups == 1 and not use.path.casts
        if plain and value is not None and _reads(model, use.node):
            own, uses = found.setdefault(value, ([], []))
            own.append(weight)
            uses.append(use)
    return found


def _reads(model: Model, node: Node) -> bool:
    """Whether it is in the main graph, and its first input a computed one, not turned."""
    turned = node.attribute("transA", 0)
    return node.graph is model.graph and not turned and model.tensor(node.input(0)) is None


def _scale(weight: Weight, scale: Array) -> None:
    """Multiply the columns of a weight, as its use sees them."""
    (use,) = weight.uses
    # a column lies along one stored axis: found by what its numbers become on the way
    index = np.arange(weight.size).reshape(weight.shape)
    place = use.matrix(index)[0].reshape(-1)
    factor = np.empty(weight.size)
    factor[place] = np.broadcast_to(scale, (use.layout.rows, use.layout.columns)).reshape(-1)
    array = weight.array()
    new = (array.astype(np.float64) * factor.reshape(weight.shape)).astype(array.dtype)
    weight.model.set_constant(weight.value, new)
