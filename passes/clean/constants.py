"""Constant expressions:  Add(2, Mul(3, 4))  ->  14

Only operators that are known to be exact and to depend on nothing but their inputs, and only where
the result takes no more room than what it replaces: a weight in a small form (codes, then Cast and
Mul, or DequantizeLinear) stays small, and a file of a few bytes cannot grow to gigabytes.
"""

from math import prod

import numpy as np
from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.evaluate import evaluate
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.tensors import Array, dims, nbytes
from onnx_compress.ir.graph.view import Value
from onnx_compress.passes.base import Entry, Report

# exact in floating point, or on integers and places alone
EXACT = frozenset(
    "Abs Add And Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather GatherND "
    "Greater GreaterOrEqual Less LessOrEqual Max Min Mul Neg Not Or Pad Range Reshape "
    "ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Tile Transpose Unsqueeze Where".split()
)
_FREE = 256  # bytes that a result may take in any case


def fold_constants(model: Model) -> Report:
    """Replace nodes of constant inputs by their numbers."""
    types = infer(model)
    deciding = _deciding(model)
    changes: list[Entry] = []
    for graph in list(model.graphs()):
        for node in graph.sorted():
            if node.op not in EXACT or node not in graph.nodes or not node.inputs:
                continue
            if node in deciding:
                continue
            outputs = _shape(model, node, types) or _evaluated(model, node, types)
            if outputs is None:
                continue
            name = node.name
            for value, array in zip(list(node.outputs), outputs, strict=True):
                if value is None or not value.is_used:
                    continue
                constant = model.add_constant(graph, array, f"{value.name}_folded")
                model.replace_uses(value, constant)
                types[constant] = types.get(value, TensorType(0, array.shape))
            remove_unused(model, node.outputs)
            changes.append(Entry(name, f"{node.op} of constants"))
    return Report(tuple(changes))


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
    if node.op not in ("Shape", "Size") or node.inputs[0] is None or node.output.exits:
        return None
    known = types.get(node.inputs[0])
    shape = known.static if known is not None else None
    if shape is None:
        return None
    if node.op == "Size":
        return [np.array(prod(shape), np.int64)]
    part = shape[slice(node.attribute("start", 0), node.attribute("end"))]
    return [np.array(part, np.int64)]


def _evaluated(model: Model, node: Node, types: dict[Value, TensorType]) -> list[Array] | None:
    if any(value is not None and value.exits for value in node.outputs):
        return None  # an output must be made by a node
    freed, inputs = 0, []
    for value in node.inputs:
        tensor = model.tensor(value)
        if value is not None and tensor is None:
            return None
        if value is not None and tensor is not None:
            inputs.append((value, tensor))
            freed += nbytes(tensor) if len(value.uses) == 1 and not value.exits else 0
    limit = max(freed, _FREE)
    known = types.get(node.output)
    if known is not None and known.static is not None and prod(known.static) > limit:
        return None
    if sum(prod(dims(tensor)) for _, tensor in inputs) > 1 << 28 or not _bounded(
        model, node, limit
    ):
        return None
    arrays = [model.constant(value) for value in node.inputs]
    if not _defined(node, arrays):
        return None
    results = evaluate(model, node, arrays)
    if results is None or sum(result.nbytes for result in results) > limit:
        return None
    return results


def _bounded(model: Model, node: Node, limit: int) -> bool:
    """Whether the result of an operator that makes much out of little stays within `limit`."""
    if node.op in ("ConstantOfShape", "Expand"):
        shape = model.constant(node.inputs[-1])
        return shape is not None and prod(max(int(dim), 1) for dim in shape.reshape(-1)) <= limit
    if node.op in ("Tile", "Pad"):
        counts = model.constant(node.input(1))
        tensor = model.tensor(node.inputs[0])
        if counts is None or tensor is None:
            return False
        if node.op == "Tile":
            grown = prod(dims(tensor)) * prod(max(int(count), 1) for count in counts.reshape(-1))
        else:
            pads = [int(count) for count in counts.reshape(-1)]
            half = len(pads) // 2
            if half != len(dims(tensor)):
                return False
            grown = prod(
                dim + pads[axis] + pads[axis + half] for axis, dim in enumerate(dims(tensor))
            )
        return grown <= limit
    if node.op == "Range":
        ends = [model.constant(value) for value in node.inputs]
        if any(end is None or end.size != 1 for end in ends):
            return False
        start, stop, step = (float(end.reshape(-1)[0]) for end in ends if end is not None)
        return step != 0 and abs((stop - start) / step) <= limit
    return True


def _defined(node: Node, arrays: list[Array | None]) -> bool:
    """Whether numpy and a runtime must agree: no integer division of signs, no wild casts."""
    if any(array is not None and array.dtype == object for array in arrays):
        return False
    if node.op == "Div" and arrays[0] is not None and arrays[1] is not None:
        integer = np.issubdtype(arrays[0].dtype, np.integer)
        return not integer or bool((arrays[0] >= 0).all() and (arrays[1] > 0).all())
    if node.op == "Cast" and arrays[0] is not None and np.issubdtype(arrays[0].dtype, np.floating):
        return bool((np.abs(arrays[0]) < 2**31).all())
    return True
