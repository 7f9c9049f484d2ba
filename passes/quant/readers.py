"""Which reader each use of a quantized weight gets: by the target, and by what a run shows.

Quantizing the input of a product at run time takes one scale for all of it. Where a few features
are far larger than the rest (language models have such), little is left of the others: those
products keep float inputs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, prod

import numpy as np

from onnx_compress.ir.analysis import Shapes, eight_bit_snr
from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.weights import Use, Weight, find_weights
from onnx_compress.ir.weights.forms import PACKED_READERS, READERS, Coded, Packed, affine
from onnx_compress.passes.base import Context
from onnx_compress.passes.target import Target

WORTH = 1.1  # times faster a form must be than one that is decoded at load, which costs nothing

_TABLE = 1 << 20  # bytes of a decoded table that nobody misses


@dataclass(frozen=True)
class Choice:
    """What readers are chosen by.

    `newest`: operator set that the model has or can be raised to. `ratios`: of the inputs of
    products, how well bytes hold them, in dB; none if activations are to stay float. `least_db`:
    what an input needs to become bytes. `kernels`: whether those of few bits may be used, which
    turn inputs into bytes.
    """

    target: Target
    shapes: Shapes
    newest: int
    ratios: Mapping[Value, float]
    least_db: float = 0.0
    kernels: bool = True

    @staticmethod
    def observed(model: Model, context: Context, newest: int, least_db: float) -> "Choice":
        """Look at one run of the model. `least_db`: of inputs that may become bytes."""
        products = [] if least_db == inf else [use for w in find_weights(model) for use in w.uses]
        inputs = [use.node.input(1 - use.slot) for use in products if use.multiplied]
        values = list(dict.fromkeys(value for value in inputs if value is not None))
        ratios = eight_bit_snr(model, context.sample, values) if values else {}
        shapes = Shapes(model, context.sample)
        return Choice(context.target, shapes, newest, ratios, least_db, least_db < inf)

    @staticmethod
    def supposed(
        model: Model, weights: Iterable[Weight], context: Context, newest: int
    ) -> "Choice":
        """As if eight bits held every input."""
        uses = [use for weight in weights for use in weight.uses if use.multiplied]
        inputs = dict.fromkeys(use.node.input(1 - use.slot) for use in uses)
        ratios = {value: inf for value in inputs if value is not None}
        return Choice(context.target, Shapes(model, context.sample), newest, ratios)

    def ratio(self, use: Use) -> float:
        """How well bytes hold what this use is multiplied by, in dB."""
        source = use.node.input(1 - use.slot)
        return -inf if source is None else self.ratios.get(source, -inf)

    def holds(self, weight: Weight) -> bool:
        """Whether bytes hold what a weight is multiplied by in products well enough."""
        return all(self.ratio(use) >= self.least_db for use in weight.uses if use.multiplied)

    def weakest(self, uses: Iterable[Use]) -> float:
        """Of the inputs of products, how well bytes hold the one they hold worst, in dB."""
        return min((self.ratio(use) for use in uses if use.multiplied), default=inf)

    def readers(self, weight: Weight) -> dict[Use, str]:
        """Rows are picked as codes, products take the fastest form, the rest is decoded once.

        Small tables are, too: what decodes the rows picked takes time in every run.
        """
        axes = weight.channel_axes
        shape = [dim if axis in axes else 1 for axis, dim in enumerate(weight.shape)]
        # readers are asked about shapes and types alone: a broadcast view costs nothing
        codes = np.broadcast_to(np.zeros((), np.int8), weight.shape)
        form = affine(weight, codes, np.ones(shape, np.float32), {})
        return {use: self._reader(use, weight, form) for use in weight.uses}

    def packed_readers(self, weight: Weight, form: Packed) -> dict[Use, str]:
        """Rows are picked as bytes, products take a kernel where it is faster, the rest unpacked.

        Kernels of few bits turn inputs into bytes block by block, which outliers spoil less.
        """
        return {use: self._packed_reader(use, weight, form) for use in weight.uses}

    def _packed_reader(self, use: Use, weight: Weight, form: Packed) -> str:
        allowed = [
            name
            for name, reader in PACKED_READERS.items()
            if reader.minimum_opset <= self.newest and reader.allows(use, form) is None
        ]
        if "picked" in allowed or not use.multiplied or not self.kernels:
            return "picked" if "picked" in allowed and _large(weight) else "unpacked"
        if "blocked" in allowed and not weight.sole_use:
            allowed.remove("blocked")  # one copy of the codes for each use
        bits = int(form.packing.bits)
        best, speed = "unpacked", 0.0
        for name, least in (("nbits", WORTH), ("blocked", 1.0)):  # it takes less memory, at least
            columns, rows = use.layout.columns, use.layout.rows
            key = f"{name}{bits}"
            ratio = self.target.product_speed(key, columns, rows, _rows(use, self.shapes))
            if name in allowed and ratio is not None and ratio >= max(least, speed):
                best, speed = name, ratio
        return best

    def _reader(self, use: Use, weight: Weight, form: Coded) -> str:
        allowed = [
            name
            for name, reader in READERS.items()
            if reader.minimum_opset <= self.newest and reader.allows(use, form) is None
        ]
        if "gathered" in allowed or not use.multiplied:
            return "gathered" if "gathered" in allowed and _large(weight) else "codec"
        if self.ratio(use) < self.least_db and "dynamic" in allowed:
            allowed.remove("dynamic")
        # one copy of the codes for each use; and in a branch, fusion could not be observed
        if "dequantize" in allowed and not (weight.sole_use and use.node.graph.owner is None):
            allowed.remove("dequantize")
        best, speed = "codec", WORTH
        for name in ("dynamic", "dequantize"):
            columns, rows = use.layout.columns, use.layout.rows
            ratio = self.target.product_speed(name, columns, rows, _rows(use, self.shapes))
            if name in allowed and ratio is not None and ratio >= speed:
                best, speed = name, ratio
        return best


def _large(weight: Weight) -> bool:
    """Whether it matters in memory what a table takes once it is decoded."""
    return 4 * weight.size > _TABLE


def _rows(use: Use, shapes: Shapes) -> int | None:
    """Rows of activations that the product sees in a run; None if unknown."""
    shape = shapes.shape(use.node.input(1 - use.slot))
    return prod(shape[:-1]) if shape else None
