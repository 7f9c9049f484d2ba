"""The way from a stored tensor to the operand that an operator reads.

stored --Identity | Cast | Transpose | Reshape--> ... --> operand
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.graph.elements import Array, dims, element_type, np_dtype, type_name
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.densify import is_sparse

STEPS = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_UNPACKING = (*STEPS, "Mul", "Sub", "Div", "Mod", "Slice", "ReduceSum")  # codes on their way
SPARSE = "already stored without its zeros"
_LONGEST = 16
_WIDEST = 200  # nodes that an operand may be put together by
_WHOLE_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")


@dataclass(frozen=True)
class Step:
    """One node on the way: axes permuted by `perm`, or the shape changed to `shape`."""

    node: Node
    shape: tuple[int, ...]
    perm: tuple[int, ...] | None = None

    @property
    def moves(self) -> bool:
        """Whether it does anything to the places of the numbers."""
        return self.perm is not None or self.node.op not in ("Identity", "Cast")


@dataclass(frozen=True)
class Path:
    """From `root`, the stored tensor, over `steps` to the operand."""

    root: Value
    steps: tuple[Step, ...]
    shape: tuple[int, ...]  # of the operand

    @property
    def casts(self) -> bool:
        """Whether the operand may be of another type than the stored tensor."""
        return self.cast_to is not None

    @property
    def cast_to(self) -> int | None:
        """The type that the last Cast gives; None where there is none."""
        casts = [step.node.attribute("to") for step in self.steps if step.node.op == "Cast"]
        return casts[-1] if casts else None

    @property
    def moves(self) -> bool:
        """Whether the operand differs from the stored tensor in shape or order."""
        return any(step.moves for step in self.steps)

    def apply(self, array: Array) -> Array:
        """The operand for these stored numbers."""
        for step in self.steps:
            array = array.transpose(step.perm) if step.perm else array.reshape(step.shape)
        return array

    def undo(self, operand: Array, stored: tuple[int, ...]) -> Array:
        """The stored numbers, of this shape, for an operand."""
        for step in reversed(self.steps):
            if step.perm is not None:
                operand = operand.transpose(np.argsort(step.perm))
            else:
                operand = operand.reshape(self._shape_before(step, stored))
        return operand

    def stored_axes(self, axes: tuple[int, ...], stored: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of the stored tensor that are these axes of the operand; lost ones left out."""
        for step in reversed(self.steps):
            before = self._shape_before(step, stored)
            if step.perm is not None:
                axes = tuple(step.perm[axis] for axis in axes)
            elif before != step.shape:
                found = [_same_axis(step.shape, axis, before) for axis in axes]
                axes = tuple(axis for axis in found if axis is not None)
        return tuple(sorted(axes))

    def _shape_before(self, step: Step, stored: tuple[int, ...]) -> tuple[int, ...]:
        place = self.steps.index(step)
        return self.steps[place - 1].shape if place else stored


def _same_axis(shape: tuple[int, ...], axis: int, before: tuple[int, ...]) -> int | None:
    """The axis of a reshaped tensor that runs over the same elements."""
    for other in range(len(before)):
        if before[other] == shape[axis] and prod(before[:other]) == prod(shape[:axis]):
            return other
    return None


def trace(model: Model, value: Value) -> Path | No:
    """Follow an operand back to the tensor it is stored in.

    `No` where it is computed (from an input, or from integer codes), with what is known of it.
    """
    nodes: list[Node] = []
    at = value
    while model.tensor(at) is None:
        node = at.producer
        if model.is_overridable(at) and at.tensor is not None:
            return No("the caller may override it: it is an input with a default")
        if node is None or node.op not in STEPS or len(nodes) >= _LONGEST:
            return _computed(model, node)
        if is_sparse(model, at):
            return No(SPARSE)
        nodes.append(node)
        following = node.input(0)
        if following is None:
            return No("computed at run time")
        at = following
    tensor = model.tensor(at)
    if tensor is None:
        return No("computed at run time")
    kind = type_name(element_type(tensor))
    if kind not in _WHOLE_FLOATS:
        return No(f"already quantized: stored as {kind}")
    steps: list[Step] = []
    shape = dims(tensor)
    for node in reversed(nodes):
        step = _step(model, node, shape)
        if isinstance(step, No):
            return step
        steps.append(step)
        shape = step.shape
    return Path(at, tuple(steps), shape)


def stored_floats(model: Model, value: Value | None) -> Array | None:
    """The numbers of a stored operand, also behind Identity, Cast, Reshape ...; else None."""
    path = trace(model, value) if value is not None else No("left out")
    array = model.constant(path.root) if isinstance(path, Path) else None
    if array is None or isinstance(path, No):
        return None
    operand = path.apply(array)
    return operand if path.cast_to is None else operand.astype(np_dtype(path.cast_to))


def is_stored(model: Model, value: Value | None) -> bool:
    """Whether there are `stored_floats`."""
    return value is not None and isinstance(trace(model, value), Path)


def pieces(model: Model, value: Value) -> list[Value]:
    """The float tensors that an operand is put together of, if it is made of constants alone.

    Exporters cut the weights of LSTM into gates and join them in another order. The way is then no
    path, but the tensors at its start are weights all the same.
    """
    found: dict[Value, None] = {}
    todo, seen = [value], 0
    while todo:
        at = todo.pop()
        seen += 1
        tensor = model.tensor(at)
        if tensor is not None:
            if len(dims(tensor)) >= 2 and type_name(element_type(tensor)) in _WHOLE_FLOATS:
                found[at] = None
            continue
        node = at.producer
        if node is None or node.op not in (*STEPS, "Slice", "Concat", "Split") or seen > _WIDEST:
            return []
        todo += [source for source in node.inputs if source is not None]
    return list(found)


def _computed(model: Model, node: Node | None) -> No:
    """Why an operand has no stored tensor: integer codes behind it are worth a word."""
    seen = 0
    todo = [node]
    while todo and seen < _LONGEST:
        at = todo.pop(0)
        seen += 1
        if at is None:
            continue
        for value in at.inputs:
            tensor = model.tensor(value)
            kind = type_name(element_type(tensor)) if tensor is not None else ""
            if at.op in ("DequantizeLinear", "Cast") and "INT" in kind:
                return No(f"already quantized: stored as {kind}")
            if value is not None and value.producer and at.op in _UNPACKING:
                todo.append(value.producer)
    return No("computed at run time")


def _step(model: Model, node: Node, shape: tuple[int, ...]) -> Step | No:
    if node.op in ("Identity", "Cast"):
        return Step(node, shape)
    if node.op == "Transpose":
        perm = tuple(node.attribute("perm", tuple(reversed(range(len(shape))))))
        return Step(node, tuple(shape[axis] for axis in perm), perm)
    if node.op == "Flatten":
        axis = node.attribute("axis", 1)
        axis += len(shape) if axis < 0 else 0
        return Step(node, (prod(shape[:axis]), prod(shape[axis:])))
    given = model.constant(node.input(1))
    if node.op == "Reshape":
        if given is None:
            return No("reshaped at run time")
        return Step(node, _reshaped(shape, [int(dim) for dim in given], node))
    axes = given if given is not None else node.attribute("axes")
    ones = [axis for axis, dim in enumerate(shape) if dim == 1]
    if given is None and node.input(1) is not None:
        return No(f"{node.op} at run time")
    if node.op == "Squeeze":
        chosen = [int(a) % len(shape) for a in axes] if axes is not None else ones
        return Step(node, tuple(dim for axis, dim in enumerate(shape) if axis not in chosen))
    if axes is None:
        return No("unsqueezed at run time")
    rank = len(shape) + len(axes)
    new = {int(axis) % rank for axis in axes}
    rest = iter(shape)
    return Step(node, tuple(1 if axis in new else next(rest) for axis in range(rank)))


def _reshaped(shape: tuple[int, ...], wanted: list[int], node: Node) -> tuple[int, ...]:
    keep = not node.attribute("allowzero", 0)
    out = [shape[i] if dim == 0 and keep else dim for i, dim in enumerate(wanted)]
    if -1 in out:
        known = prod(dim for dim in out if dim != -1)
        out[out.index(-1)] = prod(shape) // max(known, 1)
    return tuple(out)
