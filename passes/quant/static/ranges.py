"""Scales of activations: the range of least squared error of what the samples showed.

x  ->  clip(rint(x / scale) + zero, 0, 255)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.base import Context
from onnx_compress.passes.solvers.ranges import least_squares_range
from onnx_compress.passes.statistics import Counts, Histogram, collect

_TOP = 255
_FEWEST = 32  # numbers that tell a range: with fewer, the next one is often outside


@dataclass(frozen=True)
class Step:
    """How numbers become bytes."""

    scale: np.float32
    zero: np.uint8

    @staticmethod
    def over(low: float, high: float) -> "Step":
        """For a range that holds zero, which stays exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _TOP, float(np.finfo(np.float32).tiny))
        return Step(np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, _TOP)))

    def codes(self, array: Array) -> Array:
        """As QuantizeLinear computes it."""
        turned = np.rint(array.astype(np.float32) / self.scale) + self.zero
        return np.asarray(np.clip(turned, 0, _TOP), np.uint8)

    def times(self, factor: float) -> "Step":
        """The same bytes for numbers that were multiplied."""
        return Step(np.float32(self.scale * factor), self.zero)


def steps(
    model: Model, values: Sequence[Value], feeds: Sequence[Feed], context: Context
) -> dict[Value, Step]:
    """Of values of the main graph. Those of which too little was seen are left out.

    What the model is given keeps its whole range: few samples do not tell what is rare there.
    """
    requests = {value: Histogram(_tap(value)) for value in values}
    found = collect(
        model,
        list(requests.values()),
        feeds,
        threads=2,
        progress=lambda done, total: context.progress(done, total, "samples"),
        cache=context.cache,
    )
    answers: dict[Value, Counts] = {value: found[requests[value]] for value in values}
    return {
        value: _step(value, seen) for value, seen in answers.items() if seen.counts.sum() >= _FEWEST
    }


def _step(value: Value, seen: Counts) -> Step:
    if value.producer is None:
        return Step.over(seen.low, seen.high)
    return Step.over(*least_squares_range(seen.counts, seen.middles, seen.low, seen.high))


def _tap(value: Value) -> Tap:
    if value.producer is not None:
        return Tap(value.producer, value.producer.outputs.index(value), made=True)
    node, slot = next(iter(value.uses))
    return Tap(node, slot)


def of_constant(array: Array) -> Step:
    """Of numbers that are known."""
    return Step.over(float(array.min(initial=0)), float(array.max(initial=0)))
