"""Channels taken out of a model, and the same model with them masked, to compare.

removed   every constant cut along its axes, every number that counts channels rewritten
masked    zeros where a node sums over channels that are removed
"""

import numpy as np

from onnx_compress.ir.analysis.channels.axes import Key
from onnx_compress.ir.analysis.channels.find import Channels
from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


class Twins:
    """Nodes and values of a copy of a model, by those of the model."""

    def __init__(self, model: Model, copy: Model) -> None:
        self.node = dict(zip(model.nodes(), copy.nodes(), strict=True))
        self.value: dict[Value, Value] = {}
        for graph, other in zip(model.graphs(), copy.graphs(), strict=True):
            self.value |= dict(zip(graph.initializers, other.initializers, strict=True))
        for node, twin in self.node.items():
            for one, two in zip(node.outputs, twin.outputs, strict=True):
                if one is not None and two is not None:
                    self.value[one] = two


def without(channels: Channels, removed: Array) -> Model:
    """A copy of the model without these channels. Raises PreconditionError."""
    copy = clone(channels.model)
    remove(channels, removed, copy)
    return copy


def remove(channels: Channels, removed: Array, copy: Model) -> None:
    """Take channels out of a copy of the model, or of the model itself.

    Raises PreconditionError where nothing would be left of an axis.
    """
    if channels.empties(removed):
        raise PreconditionError("nothing would be left of an axis", "remove fewer channels")
    axes = channels.axes
    twins = Twins(channels.model, copy)

    def kept(ids: Array) -> Array:
        return ~channels.gone(ids, removed)

    before = [value for graph in copy.graphs() for value in graph.initializers]
    for key in axes.constants:
        stay = [kept(own) for own in axes.ids[key]]
        if all(own.all() for own in stay):
            continue
        _cut(copy, twins, key, stay)
    for patch in axes.patches:
        patch.apply(copy, kept, twins.node[patch.node])
    made = [value for value in axes.ids if isinstance(value, Value) and value in twins.value]
    changed = [v for v in made if not all(kept(own).all() for own in axes.ids[v])]
    copy.forget_shapes(twins.value[value] for value in changed)
    remove_unused(copy, before)


def _cut(copy: Model, twins: Twins, key: Key, stay: list[Array]) -> None:
    if isinstance(key, Value):
        array = copy.constant(twins.value[key])
        if array is not None:
            copy.set_constant(twins.value[key], _taken(array, stay))
        return
    node, slot = twins.node[key[0]], key[1]
    value = node.input(slot)
    array = copy.constant(value)
    if value is not None and array is not None:
        new = copy.add_constant(node.graph, _taken(array, stay), f"{value.name}_kept")
        copy.set_input(node, slot, new)


def _taken(array: Array, stay: list[Array]) -> Array:
    for axis, own in enumerate(stay):
        if not own.all():
            array = np.compress(own, array, axis)
    return np.ascontiguousarray(array)


def masked(channels: Channels, removed: Array) -> Model:
    """A copy of the model in which nothing is summed over these channels."""
    copy = clone(channels.model)
    twins = Twins(channels.model, copy)
    for site in channels.axes.sums:
        _mask(channels, removed, copy, twins.node[site.node], site.node, site.slot, site.axis)
    return copy


def _mask(
    channels: Channels, removed: Array, copy: Model, node: Node, old: Node, slot: int, axis: int
) -> None:
    source = old.input(slot)
    value = node.input(slot)
    if source is None or value is None:
        return
    ids = channels.axes.of(source, old, slot)
    gone = channels.gone(ids[axis], removed)
    if not gone.any():
        return
    known = channels.axes.shapes.types.get(source)
    array = copy.constant(value)
    dtype = array.dtype if array is not None else np_dtype(known.element) if known else np.float32
    mask = (~gone).astype(dtype).reshape([-1 if at == axis else 1 for at in range(len(ids))])
    stored = copy.add_constant(node.graph, mask, f"{value.name}_mask")
    product = copy.add_node(node.graph, "Mul", [value, stored], stem=f"{value.name}_masked")
    copy.set_input(node, slot, product)
