"""Weights as the runtime decodes them when it loads a model.

codes --Cast--> --Mul--> w          gives w, as the runtime has it
"""

from collections.abc import Iterator, Sequence

from onnx_compress.ir.graph.elements import Array, count, dims
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, extract
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.runtime.opening import open_session

_AT_ONCE = 1 << 28  # bytes of weights that are decoded at a time


def decoded(model: Model, values: Sequence[Value]) -> Iterator[tuple[Value, Array]]:
    """Numbers of values that are computed from constants alone, by the runtime, a few at a time.

    Raises InvalidError where the nodes that compute them do not load.
    """
    batch: list[Value] = []
    size = 0
    for value in values:
        batch.append(value)
        size += 4 * _elements(model, value)
        if size >= _AT_ONCE:
            yield from _run(model, batch)
            batch, size = [], 0
    yield from _run(model, batch)


def _run(model: Model, values: Sequence[Value]) -> Iterator[tuple[Value, Array]]:
    if not values:
        return
    nodes: dict[Node, None] = {}
    for value in values:
        nodes |= dict.fromkeys(_makers(model, value))
    part = Part(tuple(nodes), (), tuple(values), ())
    results = open_session(extract(model, part, {})).run({})
    yield from zip(values, results, strict=True)


def _makers(model: Model, value: Value) -> list[Node]:
    """The nodes that compute a value, each after those it needs."""
    order: dict[Node, None] = {}
    stack = [(value.producer, False)]
    while stack:
        node, ready = stack.pop()
        if node is None or node in order:
            continue
        if ready:
            order.setdefault(node)
            continue
        stack.append((node, True))
        stack += [(v.producer, False) for v in node.inputs if v is not None]
    return list(order)


def _elements(model: Model, value: Value) -> int:
    """Of the largest tensor that a value is computed from."""
    sizes = [0]
    for node in _makers(model, value):
        tensors = [model.tensor(v) for v in node.inputs]
        sizes += [count(dims(tensor)) for tensor in tensors if tensor is not None]
    return max(sizes)
