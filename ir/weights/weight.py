"""Weight: one stored tensor. Use: one operator's view of it as a matrix.

Gather(E, ids)                      Weight E
MatMul(x, Transpose(E))      ->       Use  rows gathered
                                      Use  rows multiplied, over a Transpose
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.elements import Array, bits, dims, element_type, type_name
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.tensors import slices
from onnx_compress.ir.graph.view import Graph, Node, Value
from onnx_compress.ir.weights.densify import is_sparse, puts
from onnx_compress.ir.weights.layout import Layout
from onnx_compress.ir.weights.operators import DOMAINS, OPERATORS, QUANTIZED
from onnx_compress.ir.weights.path import Path, pieces, trace
from onnx_compress.kernels.affine import largest


@dataclass(frozen=True, eq=False)
class Use:
    """One operator that reads a weight: `node.inputs[slot]` is the end of `path`."""

    node: Node
    slot: int
    path: Path
    layout: Layout

    @property
    def multiplied(self) -> bool:
        """Whether the node is one matrix product of its other input and this weight."""
        return self.slot in OPERATORS[self.node.op].multiplies

    @property
    def gathered(self) -> bool:
        """Whether the node picks rows."""
        return OPERATORS[self.node.op].gathers

    @property
    def operand(self) -> Value:
        """The value that the node reads."""
        value = self.node.input(self.slot)
        if value is None:
            raise InvalidError("its weight is gone", where=self.node.name)
        return value

    def matrix(self, stored: Array) -> Array:
        """The stored numbers as this operator sees them: [groups, rows, columns]."""
        return self.layout.matrix(self.path.apply(stored))

    def stored(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """Numbers [groups, rows, columns] as they lie in the stored tensor of this shape."""
        return self.path.undo(self.layout.restore(matrix), shape)


@dataclass(frozen=True, eq=False)
class Weight:
    """One stored tensor with all its uses; what else reads it is in `others`.

    The uses are in the order of the data flow: that of the nodes in the file decides nothing.
    One that operands are only put together of (see `path.pieces`) has no uses.
    """

    model: Model
    value: Value
    uses: tuple[Use, ...]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.value.name

    @property
    def stem(self) -> str:
        """What names of new values start with: short, since names can outweigh small weights."""
        return self.name if len(self.name) <= 24 else self.name[-24:].lstrip("/._")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        tensor = self.model.tensor(self.value)
        return dims(tensor) if tensor is not None else ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def element(self) -> int:
        """TensorProto.DataType as stored."""
        tensor = self.model.tensor(self.value)
        if tensor is None:
            raise InvalidError("its tensor is gone", where=self.name)
        return element_type(tensor)

    @property
    def dtype(self) -> str:
        """Name of the stored type."""
        return type_name(self.element)

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return -(-self.size * bits(self.element) // 8)

    @property
    def kept(self) -> str:
        """Where it is stored."""
        place = "initializer" if self.value.tensor is not None else "Constant node"
        return place if self.value.graph is self.model.graph else f"{place} in a branch"

    @property
    def others(self) -> list[Node]:
        """The nodes that read the tensor, or a step on the way to a use, in another way."""
        steps = [step.node for use in self.uses for step in use.path.steps]
        known = {(use.node, use.slot) for use in self.uses} | {(node, 0) for node in steps}
        read = dict.fromkeys([self.value, *(node.output for node in steps)])
        return [node for value in read for node, slot in value.uses if (node, slot) not in known]

    @property
    def sole_use(self) -> bool:
        """Whether one operator alone reads it."""
        return len(self.uses) == 1 and not self.others

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The stored axes along which each position may have a scale of its own.

        For several uses, the axes that all of them have; empty: one scale for all.
        """
        if not self.uses:
            return (0,)
        common: set[int] | None = None
        for use in self.uses:
            axes = set(use.path.stored_axes(use.layout.channel_axes, self.shape))
            common = axes if common is None else common & axes
        return tuple(sorted(common or ()))

    def array(self) -> Array:
        """The numbers, in the stored shape."""
        array = self.model.constant(self.value)
        if array is None:
            raise InvalidError("its tensor is gone", where=self.name)
        return array

    def pieces(self) -> Iterator[tuple[slice, Array]]:
        """The numbers in bounded pieces along the first axis, with the place of each."""
        tensor = self.model.tensor(self.value)
        if tensor is None:
            raise InvalidError("its tensor is gone", where=self.name)
        return slices(tensor, self.model.storage)

    def largest(self) -> Array:
        """Largest magnitude of each channel, size 1 along all other axes; read in pieces."""
        axes = self.channel_axes
        found = [largest(array, axes) for _, array in self.pieces()]
        top: Array = np.concatenate(found) if 0 in axes else np.maximum.reduce(found)
        return top


@dataclass(frozen=True)
class Skipped:
    """Something that could have been a weight, and why it is left alone."""

    name: str
    reason: str


@dataclass(frozen=True)
class Inventory:
    """All weights of a model, in the order of the nodes that use them, and what was skipped."""

    weights: tuple[Weight, ...]
    skipped: tuple[Skipped, ...]

    def __iter__(self) -> Iterator[Weight]:
        return iter(self.weights)


def find_weights(model: Model) -> Inventory:
    """Every weight of the operators in OPERATORS, at any depth, functions left out."""
    uses: dict[Value, list[Use]] = {}
    joined: dict[Value, None] = {}
    strange: dict[Value, str] = {}
    skipped: dict[str, Skipped] = {}

    def skip(name: str, reason: str) -> None:
        skipped.setdefault(name, Skipped(name, reason))

    for node in model.nodes():
        for slot in QUANTIZED.get(node.op, ()):
            stored = node.input(slot)
            if stored is None:
                continue
            if model.tensor(stored) is not None or is_sparse(model, stored):
                skip(stored.name, f"already quantized: read by {node.op}")
        if node.proto.domain not in DOMAINS:
            strange.update(dict.fromkeys(_stored(model, node), node.op))
        operator = None if puts(node) else OPERATORS.get(node.op)
        for slot, read in operator.slots.items() if operator else ():
            value = node.input(slot)
            if value is None:
                continue
            path = trace(model, value)
            if isinstance(path, No):
                parts = pieces(model, value)
                if not parts and path.reason != "computed at run time":
                    skip(value.name, path.reason)
                for part in parts:
                    joined.setdefault(part, None)
                continue
            layout = read(node, path.shape)
            if isinstance(layout, No):
                skip(path.root.name, f"{layout.reason} in {node.op}")
            elif path.root.exits:
                skip(path.root.name, "the model gives it out")
            elif path.root.held:
                skip(path.root.name, "training_info or an annotation refers to it")
            else:
                uses.setdefault(path.root, []).append(Use(node, slot, path, layout))
    for function in model.functions:
        for node in function.nodes:
            if node.op in OPERATORS:
                skip(f"{function.proto.name}/{node.name}", "inside a function of the model")
    for value in joined:
        if not (value.exits or value.held):
            uses.setdefault(value, [])
    for value, op in strange.items():  # who knows what it does with it, and what it must be
        uses.pop(value, None)
        skip(value.name, f"read by {op}, which is not known")
    if any(len(found) > 1 for found in uses.values()):
        place = {node: at for at, node in enumerate(_flow(model.graph))}
        for found in uses.values():
            found.sort(key=lambda use: (place[use.node], use.slot))
    weights = tuple(Weight(model, value, tuple(found)) for value, found in uses.items())
    used = {weight.name for weight in weights}
    return Inventory(weights, tuple(s for s in skipped.values() if s.name not in used))


def _flow(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of the bodies in it, as data flow."""
    for node in graph.flow():
        yield node
        for _, body in node.bodies:
            yield from _flow(body)


def _stored(model: Model, node: Node) -> list[Value]:
    """The stored tensors that a node reads, or takes over steps."""
    paths = [trace(model, value) for value in node.inputs if value is not None]
    return [path.root for path in paths if isinstance(path, Path) and len(path.shape) >= 2]
