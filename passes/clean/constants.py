"""Constant expressions:  Add(2, Mul(3, 4))  ->  14

Only operators that are known to be exact and to depend on nothing but their inputs. A whole
expression is taken at once, and only where its numbers take no more room than the constants that
go with it: a weight in a small form (codes, then Cast and Mul, or DequantizeLinear) stays small,
one that is sliced and joined anew (exporters do that to LSTM) becomes plain, and a file of a few
bytes cannot grow to gigabytes.
"""

from math import prod

import numpy as np

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, nbytes
from onnx_compress.ir.graph.evaluate import evaluate
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.view import Value
from onnx_compress.passes.base import Entry, Report

# exact in floating point, or on integers and places alone
EXACT = frozenset(
    "Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherND "
    "Greater GreaterOrEqual Less LessOrEqual Max Min Mul Neg Not Or Pad Range Reshape "
    "ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Tile Transpose Unsqueeze Where".split()
)
_BROADCAST = frozenset(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or Sub Where".split()
)
_FREE = 8  # bytes that a result may take in any case: one number
_TENSOR = 32  # that a stored tensor takes besides its numbers, without its name
_LARGEST = 1 << 20  # bytes that a result on the way may take; or as much as is stored
_STORED = 1 << 28  # bytes of constants that one expression may read
_KEPT = 1 << 16  # bytes of a result that is kept for other expressions


def fold_constants(model: Model) -> Report:
    """Replace expressions of constants by their numbers."""
    types = infer(model)
    deciding = _deciding(model)
    changes: list[Entry] = []
    foldable: dict[Node, None] = {}
    for graph in list(model.graphs()):
        for node in graph.sorted():
            if node.op not in EXACT or node in deciding or not node.inputs:
                continue
            if any(value is not None and value.exits for value in node.outputs):
                continue  # an output must be made by a node
            known = _shape(model, node, types)
            if known is not None:
                changes.append(_replace(model, node, known))
            elif all(_is_constant(model, value, foldable) for value in node.inputs):
                foldable[node] = None
    made: dict[Value, Array] = {}
    for node in foldable:
        readers = [reader for v in node.outputs if v is not None for reader in v.consumers]
        if node not in node.graph.nodes or all(reader in foldable for reader in readers):
            continue
        results = _Expression(model, node, foldable).numbers(made)
        if results is not None:
            changes.append(_replace(model, node, results))
    return Report(tuple(changes))


def _is_constant(model: Model, value: Value | None, foldable: dict[Node, None]) -> bool:
    return value is None or value.producer in foldable or model.tensor(value) is not None


def _replace(model: Model, node: Node, outputs: list[Array]) -> Entry:
    entry = Entry(node.name, f"{node.op} of constants")
    for value, array in zip(list(node.outputs), outputs, strict=True):
        if value is not None and value.is_used:
            constant = model.add_constant(node.graph, array, f"{value.name}_folded")
            model.replace_uses(value, constant)
    remove_unused(model, node.outputs)
    return entry


class _Expression:
    """A node and all nodes that its inputs are computed by."""

    def __init__(self, model: Model, node: Node, foldable: dict[Node, None]) -> None:
        self.model, self.node = model, node
        ordered: dict[Node, None] = {}  # each after the ones it needs
        todo: list[tuple[Node, bool]] = [(node, False)]
        while todo:
            at, ready = todo.pop()
            if at in ordered:
                continue
            if ready:
                ordered[at] = None
                continue
            todo.append((at, True))
            makers = [value.producer for value in at.inputs if value is not None]
            todo += [(m, False) for m in makers if m in foldable and m not in ordered]
        self.nodes = list(ordered)

    def _freed(self) -> int:
        """Bytes of the nodes, and of the constants, that nothing needs once the node is gone."""
        gone: set[Node] = set()
        for at in reversed(self.nodes):
            readers = [reader for v in at.outputs if v is not None for reader in v.consumers]
            if at is self.node or all(reader in gone for reader in readers):
                gone.add(at)
        sources = dict.fromkeys(v for at in gone for v in at.inputs if v is not None)
        freed = sum(int(at.proto.ByteSize()) for at in gone)
        for value in sources:
            tensor = self.model.tensor(value)
            if tensor is not None and not value.exits and gone.issuperset(value.consumers):
                freed += nbytes(tensor)
        return freed

    def numbers(self, known: dict[Value, Array]) -> list[Array] | None:
        """What the node gives; None if that is unknown, unsafe, or takes more room.

        `known`: small results of other expressions, to which those of this one are added.
        """
        limit = max(self._freed() - _TENSOR * len(self.node.outputs), _FREE)
        sources = dict.fromkeys(value for at in self.nodes for value in at.inputs)
        tensors = [self.model.tensor(value) for value in sources]
        stored = sum(nbytes(tensor) for tensor in tensors if tensor is not None)
        if stored > _STORED:
            return None
        largest = max(stored, _LARGEST)
        made: dict[Value, Array] = {}
        for at in self.nodes:
            last = at is self.node
            if not last and all(value is None or value in known for value in at.outputs):
                continue
            results = self._step(at, {**made, **_picked(known, at)}, limit if last else largest)
            if results is None or last:
                return results
            for value, array in zip(at.outputs, results, strict=True):
                if value is not None:
                    (known if array.nbytes <= _KEPT else made)[value] = array
        return None

    def _step(self, at: Node, made: dict[Value, Array], limit: int) -> list[Array] | None:
        inputs = [
            made[value] if value in made else self.model.constant(value) for value in at.inputs
        ]
        if not _bounded(at, inputs, limit) or not _defined(at, inputs):
            return None
        results = evaluate(self.model, at, inputs)
        fits = results is not None and sum(result.nbytes for result in results) <= limit
        return results if fits else None


def _picked(known: dict[Value, Array], node: Node) -> dict[Value, Array]:
    return {value: known[value] for value in node.inputs if value in known}


def _bounded(node: Node, arrays: list[Array | None], limit: int) -> bool:
    """Whether what an operator makes of little stays within `limit` bytes."""
    given = [array for array in arrays if array is not None]
    size = max((array.itemsize for array in given), default=8)
    count = _count(node, given)
    return count is not None and count * size <= limit


def _count(node: Node, given: list[Array]) -> int | None:
    """Elements of the result, or fewer; None where the inputs do not fit."""
    if node.op in ("ConstantOfShape", "Expand"):
        return int(prod(max(int(dim), 1) for dim in given[-1].reshape(-1)))
    if node.op == "Tile":
        return int(given[0].size * prod(max(int(n), 1) for n in given[1].reshape(-1)))
    if node.op == "Pad":
        pads = [int(pad) for pad in given[1].reshape(-1)] if len(given) > 1 else []
        half = len(pads) // 2
        if half != given[0].ndim:
            return None
        sizes = [dim + pads[i] + pads[i + half] for i, dim in enumerate(given[0].shape)]
        return int(prod(max(size, 1) for size in sizes))
    if node.op == "Range":
        if len(given) != 3 or any(end.size != 1 for end in given):
            return None
        start, stop, step = (float(end.reshape(-1)[0]) for end in given)
        return int(abs((stop - start) / step)) if step else None
    if node.op == "Gather" and len(given) == 2 and given[0].ndim:
        rows = given[0].shape[node.attribute("axis", 0) % given[0].ndim]
        return int(given[0].size // max(rows, 1) * given[1].size)
    if node.op == "GatherND" and len(given) == 2 and given[1].ndim:
        return int(given[0].size * given[1].size)  # at most: all of it for each
    if node.op in _BROADCAST:
        try:
            return int(prod(np.broadcast_shapes(*(array.shape for array in given))))
        except ValueError:
            return None
    return 0


def _deciding(model: Model) -> set[Node]:
    """The nodes that conditions of If come from.

    ONNX Runtime inlines an If whose condition is constant, and refuses some branches then that it
    accepts otherwise (those of AffineGrid, spelled out, for one).
    """
    todo = [node.inputs[0] for node in model.nodes() if node.op == "If"]
    found: set[Node] = set()
    while todo:
        value = todo.pop()
        node = value.producer if value is not None else None
        if node is not None and node not in found:
            found.add(node)
            todo += node.inputs
    return found


def _shape(model: Model, node: Node, types: dict[Value, TensorType]) -> list[Array] | None:
    """Shape and Size need only the shape, which the runtime enforces where it is fixed."""
    if node.op not in ("Shape", "Size") or node.inputs[0] is None:
        return None
    known = types.get(node.inputs[0])
    shape = known.static if known is not None else None
    if shape is None:
        return None
    if node.op == "Size":
        return [np.array(prod(shape), np.int64)]
    part = shape[slice(node.attribute("start", 0), node.attribute("end"))]
    return [np.array(part, np.int64)]


def _defined(node: Node, arrays: list[Array | None]) -> bool:
    """Whether numpy and a runtime must agree: no integer division of signs, no wild casts."""
    if any(array is not None and array.dtype == object for array in arrays):
        return False
    if node.op == "Div" and arrays[0] is not None and arrays[1] is not None:
        integer = np.issubdtype(arrays[0].dtype, np.integer)
        return not integer or bool((arrays[0] >= 0).all() and (arrays[1] > 0).all())
    if node.op == "Cast" and arrays[0] is not None and arrays[0].dtype.kind == "f":
        return bool((np.abs(arrays[0].astype(np.float64)) < 2**31).all())
    return True
