"""Equal constants:  W1 == W2  ->  W1 twice"""

from onnx_compress.ir.graph import Graph, Model
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.digests import digest
from onnx_compress.ir.graph.elements import Tensor, dims, element_type
from onnx_compress.ir.graph.tensors import beginning
from onnx_compress.ir.graph.view import Value
from onnx_compress.passes.base import Entry, Report

Key = tuple[int, tuple[int, ...], bytes]


def share_constants(model: Model, apart: frozenset[Value] = frozenset()) -> Report:
    """Let the readers of equal constants of one graph read the first of them.

    `apart`: what stays by itself, so that it can be left alone later.
    """
    changes: list[Entry] = []
    for graph in list(model.graphs()):
        alike: dict[Key, list[Value]] = {}
        for value, tensor in _constants(model, graph):
            if value in apart:
                continue
            key = (element_type(tensor), dims(tensor), beginning(tensor, model.storage))
            alike.setdefault(key, []).append(value)
        for values in alike.values():
            if len(values) > 1:
                changes += _merge(model, values)
    return Report(tuple(changes))


def _constants(model: Model, graph: Graph) -> list[tuple[Value, Tensor]]:
    return [
        (value, tensor)
        for value, tensor in model.stored(graph)
        if not (value.exits or value.is_input or value.held)
    ]


def _merge(model: Model, values: list[Value]) -> list[Entry]:
    first: dict[str, Value] = {}
    changes: list[Entry] = []
    for value in values:
        tensor = model.tensor(value)
        if tensor is None:
            continue
        kept = first.setdefault(digest(tensor, model.storage), value)
        if kept is not value:
            changes.append(Entry(value.name, f"equal to {kept.name}"))
            model.replace_uses(value, kept)
            remove_unused(model, [value])
    return changes
