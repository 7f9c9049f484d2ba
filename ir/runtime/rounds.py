"""How often, and on what, nodes run their bodies: one row an operator.

Each takes the node, its inputs as arrays (None where left out), and a function that runs a body on
the values that it is given and gives its outputs.
"""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.view import Graph, Node, Value

RunBody = Callable[[Graph, Mapping[Value, Any]], list[Any]]


def _if(node: Node, reads: list[Any], run: RunBody) -> None:
    branch = "then_branch" if bool(np.all(reads[0])) else "else_branch"
    run(dict(node.bodies)[branch], {})


def _loop(node: Node, reads: list[Any], run: RunBody) -> None:
    ((_, body),) = node.bodies
    names = [value for value, _ in body.inputs]
    trips = None if reads[0] is None else int(np.reshape(reads[0], -1)[0])
    going = len(reads) < 2 or reads[1] is None or bool(np.all(reads[1]))
    state = reads[2:]
    for turn in count():
        if not going or (trips is not None and turn >= trips):
            return
        flags = (np.array(turn, np.int64), np.array(True))
        first = [_shaped(flag, value) for flag, value in zip(flags, names, strict=False)]
        results = run(body, dict(zip(names, [*first, *state], strict=True)))
        going, state = bool(np.all(results[0])), results[1 : 1 + len(state)]


def _shaped(flag: Any, value: Value) -> Any:
    """A scalar, or of one element, as the body declares it."""
    known = declared(value.info)
    return (
        flag.reshape(1) if known is not None and known.shape is not None and known.shape else flag
    )


def _scan(node: Node, reads: list[Any], run: RunBody) -> None:
    ((_, body),) = node.bodies
    names = [value for value, _ in body.inputs]
    scanned = int(node.attribute("num_scan_inputs"))
    split = len(reads) - scanned
    state, inputs = reads[:split], reads[split:]
    axes = node.attribute("scan_input_axes", [0] * scanned)
    backward = node.attribute("scan_input_directions", [0] * scanned)
    length = inputs[0].shape[axes[0]]
    for turn in range(length):
        places = [length - 1 - turn if back else turn for back in backward]
        parts = [np.take(a, at, axis) for a, at, axis in zip(inputs, places, axes, strict=True)]
        results = run(body, dict(zip(names, [*state, *parts], strict=True)))
        state = results[: len(state)]


ROUNDS: dict[str, Callable[[Node, list[Any], RunBody], None]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
}
