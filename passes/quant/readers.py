"""Which reader each use of a quantized weight gets: policy, by the target."""

from math import prod

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import READERS, affine
from onnx_compress.passes.target import Target


def choose(
    weight: Weight, target: Target, shapes: Shapes | None, float_only: bool
) -> dict[Use, str]:
    """Reader by use: rows picked as codes, products in the fastest form, the rest decoded once.

    With `float_only`, activations are not quantized.
    """
    shape = [dim if axis in weight.channel_axes else 1 for axis, dim in enumerate(weight.shape)]
    # readers are asked about shapes and types only: broadcast views cost nothing
    codes = np.broadcast_to(np.zeros((), np.int8), weight.shape)
    form = affine(weight, codes, np.ones(shape, np.float32), {})
    chosen: dict[Use, str] = {}
    for use in weight.uses:
        allowed = [name for name, reader in READERS.items() if reader.allows(use, form) is None]
        if "gathered" in allowed:
            chosen[use] = "gathered"
        elif use.multiplied:
            rows = _rows(use, shapes)
            best, speed = "codec", 1.0
            for name in ("dynamic", "dequantize"):
                if name not in allowed or (float_only and name == "dynamic"):
                    continue
                if name == "dequantize" and not weight.sole_use:
                    continue
                ratio = target.product_speed(name, use.layout.columns, use.layout.rows, rows)
                if ratio is not None and ratio >= speed:
                    best, speed = name, ratio
            chosen[use] = best
        else:
            chosen[use] = "codec"
    return chosen


def _rows(use: Use, shapes: Shapes | None) -> int | None:
    """Rows of activations that the product sees in a run; None if unknown."""
    shape = shapes.shape(use.node.input(1 - use.slot)) if shapes is not None else None
    return prod(shape[:-1]) if shape else None
