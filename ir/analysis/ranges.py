"""How well values of one run fit eight bits."""

from collections.abc import Sequence

import numpy as np

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.runtime import Feed, observe

MAX_DB = 200.0


def eight_bit_snr(model: Model, feed: Feed, values: Sequence[Value]) -> dict[Value, float]:
    """Signal-to-noise ratio in dB of each value if one scale and 256 steps span all of it.

    A uniform error of one step has the power step^2 / 12. A few values far from all others make
    the step large and the ratio small. Values that could not be observed are left out.
    """
    try:
        seen = observe(model, feed, values, ["ReduceMin", "ReduceMax", "ReduceSumSquare", "Size"])
    except CompressError:
        return {}
    found: dict[Value, float] = {}
    for value, (low, high, power, size) in seen.items():
        step = (max(float(high), 0.0) - min(float(low), 0.0)) / 255
        noise, signal = step**2 / 12, float(power) / max(int(size), 1)
        if np.isfinite(signal) and np.isfinite(noise):
            found[value] = 10 * float(np.log10(signal / noise)) if noise and signal else MAX_DB
    return found
