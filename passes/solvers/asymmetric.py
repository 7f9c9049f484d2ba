"""Asymmetric targets: the inputs have changed, the outputs are to be those of the model as it was.

    E|W x - V x'|^2 = tr((W' - V) H' (W' - V)T) + what no V can take away

    W' = W + W (C - H') H'^-1,     C = E[x x'T],  H' = E[x' x'T]

W' is the weight that is best for the new inputs: whatever solver is given W' and H' in place of W
and H works towards the outputs of the uncompressed model. x are its inputs, x' those in the model
whose earlier layers are compressed already. Where channels are gone from x', `kept` says which are
left. Sources: GPTAQ (2504.02692), CORP (2602.05243).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.loss import damped
from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]


def shifted(
    weight: Array, cross: Array, moment: Array, kept: Array | None = None, damping: float = 0.01
) -> Array:
    """W' [R, K'], float64; W itself where C = H', the inputs being what they were.

    `weight`: [R, K] or [G, R, K]; `cross`: C, [K, K'] or [G, K, K']; `moment`: H', [K', K'] or
    [G, K', K'], *not* damped: only the change is, so that it is small where data say little.
    `kept`: [K'], the columns of W that are still there; all by default.
    """
    w, c, h = (np.asarray(array, np.float64) for array in (weight, cross, moment))
    here = w if kept is None else w[..., kept]
    if here.shape[-1] != h.shape[-1] or c.shape[-2:] != (w.shape[-1], h.shape[-1]):
        raise ValueError(f"weight {w.shape}, cross {c.shape} and moment {h.shape} do not fit")
    with one_thread():
        change = np.swapaxes(w @ c - here @ h, -1, -2)
        found = np.linalg.solve(damped(h, damping), change)
    return np.asarray(here + np.swapaxes(found, -1, -2))
