"""What quant asks for: activations in bytes, plans of the weights of what reads them, biases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.passes.base import Context, Entry
from onnx_compress.passes.quant.plan import Plan, plan
from onnx_compress.passes.quant.setting import Setting
from onnx_compress.passes.quant.static.equalize import equalized
from onnx_compress.passes.quant.static.guard import guard
from onnx_compress.passes.quant.static.place import placement
from onnx_compress.passes.quant.static.shift import Original, correct_if_nearer
from onnx_compress.passes.quant.static.units import Unit
from onnx_compress.passes.reachable import raise_to

_PRODUCTS = ("MatMul", "Gemm")
STATIC = "static"  # the reader of their weights
_NODES, _WEIGHTED = 4, 6  # nodes and small tensors around a unit, and around a weight
_ROW_BYTES = 9  # scales of the weight and of the bias, and a zero point
_NODE_BYTES = 100  # that each takes in a file, with its name


@dataclass
class Integers:
    """What became of the activations of a model.

    `plans`: of the weights of integer convolutions and products with inputs in bytes, and of the
    convolutions that stay float because eight bits are too few for them, in 16.
    """

    model: Model
    context: Context
    plans: dict[Weight, Plan] = field(default_factory=dict)
    changes: list[Entry] = field(default_factory=list)
    skipped: list[Entry] = field(default_factory=list)
    original: Original | None = None
    notes: tuple[str, ...] = ()

    def finish(self) -> None:
        """Once all weights are stored: take what has shifted off the biases, keep float float."""
        if self.original is not None:
            guard(self.model)
            read = {weight: plan.readers.values() for weight, plan in self.plans.items()}
            uses = [weight.uses[0] for weight, how in read.items() if STATIC in how]
            correct_if_nearer(self.model, self.original, uses, self.context)


def placed(
    model: Model,
    weights: Sequence[Weight],
    plans: Mapping[Weight, Plan],
    context: Context,
    newest: int,
    choose: bool,
) -> Integers:
    """Put into bytes what gains by it. `newest`: operator set that the model may be raised to.

    `plans`: what becomes of weights if not. `choose`: let convolutions stay float that make much of
    the error, weights that do have 16 bits, and products be as they are planned.
    """
    made = Integers(model, context)
    version = READERS[STATIC].minimum_opset
    otherwise = {use: how for each in plans.values() for use, how in each.readers.items()}
    found = placement(model, weights, context, otherwise) if newest >= version else None
    if found is None:
        return made
    found, equal = equalized(found, weights, otherwise)
    taken = found.chosen()
    if choose:
        shares, rough = found.spared(taken)
        for node, share in shares.items():
            stays = "its input is not made bytes before" if node.op in _PRODUCTS else "stays float"
            made.skipped.append(Entry(node.name, f"{stays}: {share:.0%} of the error"))
        taken = found.chosen(shares)
        for weight in weights:
            if any(use.node in rough and not use.multiplied for use in weight.uses):
                half = plan(weight, Setting(16, 0, False), None)
                if not isinstance(half, No):
                    made.plans[weight] = half
    if not _smaller(taken):
        equal.undo()
        made.plans.clear()
        return made
    if model.opset() < version:
        made.changes.append(Entry("operator set", f"raised from {model.opset()} to {version}"))
        raise_to(model, context, version)
    equal.settle(taken)
    made.notes = equal.notes()
    taken = found.as_gemms(taken)
    made.original = Original.of(model)
    for weight in found.write(taken):
        made.plans[weight] = Plan(8, {weight.uses[0]: STATIC})
    return made


def _smaller(taken: Sequence[Unit]) -> bool:
    """Whether bytes save more in weights than what comes with them takes in the file."""
    left = 0
    for unit in taken:
        nodes = _NODES
        if unit.weight is not None:
            rows = unit.weight.uses[0].layout.rows * unit.weight.uses[0].layout.groups
            left += unit.weight.nbytes * 3 // 4 - _ROW_BYTES * rows
            nodes += _WEIGHTED
        if unit.gemm is not None and unit.gemm.lead:
            nodes += _NODES
        left -= nodes * _NODE_BYTES
    return left > 0


def settled(model: Model) -> bool:
    """Whether activations are in bytes already: what is float beside them is so on purpose."""
    return any(node.op == "QuantizeLinear" for node in model.graph.nodes)
