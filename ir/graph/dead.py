"""Taking out what nothing reads."""

from collections.abc import Iterable

from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Value


def remove_unused(model: Model, values: Iterable[Value | None]) -> int:
    """Take out these values if nothing uses them, then what only they used, and so on.

    Inputs of the model stay. Gives the number of nodes and initializers taken out.
    """
    todo = [value for value in values if value is not None]
    removed = 0
    while todo:
        value = todo.pop()
        if value.is_used or not value.alive:
            continue
        node = value.producer
        if node is None:
            if value.tensor is not None and not model.is_overridable(value):
                model.remove_initializer(value)
                removed += 1
        elif node in node.graph.nodes and not any(v.is_used for v in node.outputs if v):
            todo += [v for v in (*node.inputs, *node.captures) if v is not None]
            model.remove(node)
            removed += 1
    return removed
