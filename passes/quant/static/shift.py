"""What integers add to the means of a convolution is taken off its bias, front to back.

    b  -=  E[V x' + b] - E[W x + b]       x', V: bytes as they became;  x, W: of the original

That of the weights and that of all activations before, their rounding and their ranges. Each layer
sees what the layers before it have become. Source: Nagel et al., 1906.04721.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph import Model, Node, clone
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.runtime.walk import Walk
from onnx_compress.ir.runtime.watch import Tap, Watch
from onnx_compress.ir.weights import Use
from onnx_compress.ir.weights.forms.static import BIAS, coded_bias
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.halves import HELD
from onnx_compress.passes.verify import Reference

_SAMPLES = 8  # means of convolutions are over many positions of each


@dataclass(frozen=True)
class Original:
    """A model before its convolutions became integers, to be compared with."""

    model: Model
    twins: dict[Node, Node]

    @staticmethod
    def of(model: Model) -> "Original":
        """A copy."""
        before = clone(model)
        return Original(before, dict(zip(model.graph.nodes, before.graph.nodes, strict=True)))


def correct_if_nearer(
    model: Model, original: Original, uses: Sequence[Use], context: Context
) -> bool:
    """Correct the means; back to what it was where that brings outputs no nearer.

    Peaks that are rare, like those of detectors, may lose by what suits all the rest.
    """
    held = context.fit[-HELD:]
    reference = Reference(open_session(original.model, 2, simulated=True), held)
    before = reference.apart(model)
    biases = [value for use in uses if (value := coded_bias(use.node)) is not None]
    kept = [(value, model.constant(value)) for value in biases]
    correct_means(model, original, uses, context)
    if reference.apart(model) <= before:
        return True
    for value, array in kept:
        if array is not None:
            model.set_constant(value, array)
    return False


def correct_means(model: Model, original: Original, uses: Sequence[Use], context: Context) -> int:
    """Change the biases of these convolutions; gives how many were changed."""
    nodes = {use.node for use in uses if coded_bias(use.node) is not None}
    order = [node for node in model.graph.sorted() if node in nodes]
    feeds = context.fit[:_SAMPLES]
    wanted = _means(original.model, [original.twins[node] for node in order], feeds)
    walk = Walk(model, feeds, 2, optimize=False)
    for at, node in enumerate(order):
        given = _mean(walk.outputs(node))
        if np.isfinite(wanted[at]).all() and np.isfinite(given).all():
            _take_off(model, node, given - wanted[at])
        context.progress(at + 1, len(order), "biases")
    return len(order)


def _means(model: Model, nodes: Sequence[Node], feeds: Sequence[Feed]) -> list[Array]:
    """Of the first output of each node, by channel."""
    taps = [Tap(node, 0, made=True) for node in nodes]
    runs = Watch(model, taps, 2, optimize=True).run_all(feeds)
    sums = [[_channels(seen[0][tap]) for tap in taps] for _, seen in runs]
    return [_pooled(parts) for parts in zip(*sums, strict=True)]


def _mean(arrays: Iterable[Array]) -> Array:
    return _pooled([_channels(array) for array in arrays])


def _channels(array: Array) -> tuple[Array, int]:
    """Sum by channel, and of how many numbers each; [N, C, ...]."""
    others = (0, *range(2, array.ndim))
    return array.sum(axis=others, dtype=np.float64), array.size // max(array.shape[1], 1)


def _pooled(parts: Sequence[tuple[Array, int]]) -> Array:
    total = np.sum([part for part, _ in parts], axis=0)
    return np.asarray(total / max(sum(count for _, count in parts), 1))


def _take_off(model: Model, node: Node, shift: Array) -> None:
    value, decoded = coded_bias(node), node.input(BIAS)
    made = decoded.producer if decoded is not None else None
    if value is None or made is None:
        return
    codes, step = model.constant(value), model.constant(made.input(1))
    if codes is None or step is None:
        return
    new = codes - np.rint(shift / step.astype(np.float64))
    top = np.iinfo(np.int32).max // 2
    model.set_constant(value, np.clip(new, -top, top).astype(np.int32))
