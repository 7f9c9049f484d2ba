"""Weights that need 16 bits where the rest of a model needs eight: the few that make the error.

    error^2 of a model with some weights in eight bits  ~  sum of error^2 of each alone

Bases of Fourier transforms before a logarithm are such, and first layers of small networks.
Measured at the outputs, before a Softmax, with codes rounded to nearest.
"""

from collections.abc import Sequence

from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.weights import Weight, find_weights
from onnx_compress.ir.weights.forms import Dense, affine
from onnx_compress.passes.logits import give_logits
from onnx_compress.passes.quant.halves import Part, looked_into
from onnx_compress.passes.quant.rounding import round_to_nearest
from onnx_compress.passes.verify import Reference

_LOOK = 0.02  # of the error^2, below which a half is not looked into
_MOST = 0.5  # of the bytes of all; where more is fragile, all had better have 16 bits


def fragile(
    model: Model, weights: Sequence[Weight], feeds: Sequence[Feed], allowed: float
) -> list[Weight]:
    """Those without which the error of eight bits is within `allowed`, the worst first.

    None where it is so with them, where they are half of the model, or where nothing can be told.
    """
    rounded = _Rounded(model, feeds)
    total = rounded.square(weights)
    if not allowed**2 < total < float("inf"):
        return []
    found: list[Weight] = []
    parts: list[Part[Weight]] = [(list(weights), total)]
    while total > allowed**2:
        parts = looked_into(rounded.square, parts, _LOOK * total)
        parts.sort(key=lambda part: part[1])
        taken: list[Weight] = []
        while parts and len(parts[-1][0]) == 1 and sum(s for _, s in parts) > allowed**2:
            taken += parts.pop()[0]
        found += taken
        if not (taken and parts) or _bytes(found) > _MOST * _bytes(weights):
            return []
        total = rounded.square([weight for part, _ in parts for weight in part])
    return found


def _bytes(weights: Sequence[Weight]) -> int:
    return sum(weight.nbytes for weight in weights)


class _Rounded:
    """A model with some of its weights in eight bits."""

    def __init__(self, model: Model, feeds: Sequence[Feed]) -> None:
        self.model = model
        self.values = [weight.value for weight in find_weights(model)]
        original = clone(model)
        give_logits(original)
        self.reference = Reference(open_session(original, 2, optimize=False), feeds)

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
