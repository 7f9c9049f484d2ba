"""Weights that need 16 bits where the rest of a model needs eight: the few that make the error.

    error^2 of a model with some weights in eight bits  ~  sum of error^2 of each alone

Bases of Fourier transforms before a logarithm are such, and first layers of small networks.
Measured at the outputs, before a Softmax, with codes rounded to nearest.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count

from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.weights import Weight, find_weights
from onnx_compress.ir.weights.forms import Dense, affine
from onnx_compress.passes.logits import give_logits
from onnx_compress.passes.quant.rounding import round_to_nearest
from onnx_compress.passes.verify import Reference

_FEW = 6  # weights of which the worst makes at least its part of what is too much
_MOST = 0.5  # of the bytes of all; where more is fragile, all had better have 16 bits


def fragile(
    model: Model, weights: Sequence[Weight], feeds: Sequence[Feed], allowed: float
) -> list[Weight]:
    """Those without which the error of eight bits is within `allowed`, the worst first.

    None where it is so with them, where they are half of the model, where the error is spread over
    more than a few, or where nothing can be told. The half that makes more of the error is looked
    into first, so that a spread error is found out after a few looks.
    """
    rounded = _Rounded(model, feeds)
    left = rounded.square(weights)
    if not allowed**2 < left < float("inf"):
        return []
    found: list[Weight] = []
    number = count()  # of two halves that are alike, the first one
    parts = [(-left, next(number), list(weights))]
    while parts and left > allowed**2:
        square, _, part = heappop(parts)
        if -square * _FEW < left - allowed**2:
            return []
        if len(part) > 1:
            for side in (part[: len(part) // 2], part[len(part) // 2 :]):
                heappush(parts, (-rounded.square(side), next(number), side))
            continue
        found += part
        if _bytes(found) > _MOST * _bytes(weights):
            return []
        left = rounded.square([weight for _, _, rest in parts for weight in rest])
    return found if left <= allowed**2 else []


def _bytes(weights: Sequence[Weight]) -> int:
    return sum(weight.nbytes for weight in weights)


class _Rounded:
    """A model with some of its weights in eight bits."""

    def __init__(self, model: Model, feeds: Sequence[Feed]) -> None:
        self.model = model
        self.values = [weight.value for weight in find_weights(model)]
        original = clone(model)
        give_logits(original)
        self.reference = Reference(open_session(original, 2, simulated=True), feeds)

    def square(self, weights: Sequence[Weight]) -> float:
        """error^2; where channels of an output are very unlike, what they lose on average."""
        trial = clone(self.model)
        twins = dict(zip(self.values, find_weights(trial), strict=True))
        for weight in weights:
            coded = round_to_nearest(weight, 8)
            if not isinstance(coded, No):
                Dense(affine(weight, *coded, {}).decode()).emit(twins[weight.value])
        give_logits(trial)
        return self.reference.apart(trial)
