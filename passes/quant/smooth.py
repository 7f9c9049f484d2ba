"""SmoothQuant: outliers of a product's input move into its weight, before the input becomes bytes.

    x W    ->    (x * 1/s) (s W)            s: see evening.py

Once for all products of one input: by what makes x, if nothing else reads it (absorb.py), by an
inserted Mul where a residual does, too. Source: Xiao et al., 2211.10438.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No, before_identity
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.path import is_stored
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.absorb import absorbing, multiplied
from onnx_compress.passes.quant.evening import evened
from onnx_compress.passes.quant.scaled import multiply
from onnx_compress.passes.statistics import Reach, collect


@dataclass(eq=False)
class _Input:
    """One that was smoothed: `scale`, into which weights.

    `places`: inputs of nodes that were changed, and what they were before; `made`: a node's output.
    """

    scale: Array
    weights: list[Weight]
    places: Sequence[tuple[Node, int, Value | None]]
    made: Value | None = None


@dataclass
class Smoothed:
    """What was done."""

    model: Model
    inputs: list[_Input] = field(default_factory=list)

    def undo(self, wanted: Mapping[Weight, bool]) -> None:
        """Take out what no product with an input in bytes reads. `wanted`: of which there are."""
        kept = [each for each in self.inputs if any(wanted.get(w, False) for w in each.weights)]
        for each in self.inputs:
            if each in kept:
                remove_unused(self.model, [old for *_, old in each.places])
                continue
            for weight in each.weights:
                multiply(weight, 1 / each.scale)
            new = [node.input(slot) for node, slot, _ in each.places]
            for node, slot, old in each.places:
                self.model.set_input(node, slot, old)
            remove_unused(self.model, [*new, each.made])
        self.inputs = kept

    @property
    def multiplied(self) -> set[Weight]:
        """Weights whose input is multiplied by a node, and would lose by being bytes before it."""
        return {w for each in self.inputs if each.made is not None for w in each.weights}

    def notes(self) -> tuple[str, ...]:
        """For the report."""
        if not self.inputs:
            return ()
        free = sum(each.made is None for each in self.inputs)
        how = f", {free} of them by what makes them" if free else ""
        return (f"{len(self.inputs)} inputs of products smoothed into their weights{how}",)


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
            multiply(weight, scale)
        found.inputs.append(_divided(model, value, [use.node for use in uses], own, scale))
    return found


def _divided(
    model: Model, value: Value, readers: list[Node], weights: list[Weight], scale: Array
) -> _Input:
    """The input of these products divided: by what makes it, else by a node."""
    places = absorbing(model, value, readers, len(scale))
    if not isinstance(places, No):
        multiplied(model, places, 1 / scale)
        return _Input(scale, weights, places)
    b = Builder(model, model.graph, value.name[-24:].lstrip("/._"), readers[0])
    made = b("Mul", value, b.constant((1 / scale).astype(np.float32), "smooth"))
    changed = [(node, 0, node.input(0)) for node in readers]
    for node in readers:
        model.set_input(node, 0, made)
    return _Input(scale, weights, changed, made)


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
    return node.graph is model.graph and not turned and not is_stored(model, node.input(0))
