"""Small heads fitted in closed form or by Newton's method.

ridge      minimise |X A + b - Y|^2 + damping |A|^2
logistic   minimise sum log(1 + exp(-y (x a + b))) + damping/2 |a|^2, by iteratively reweighted
           least squares; labels 0 and 1, or probabilities between

Sources: Hoerl & Kennard 1970; McCullagh & Nelder 1989, chapter 2.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]


def ridge(inputs: Array, targets: Array, damping: float = 1e-3) -> tuple[Array, Array]:
    """A [K, C], b [C] for inputs [N, K] and targets [N, C]; `damping` relative to the variance."""
    x, y = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    middle, level = x.mean(0), y.mean(0)
    centred = x - middle
    with one_thread():
        gram = centred.T @ centred
        gram[np.diag_indices_from(gram)] += damping * max(float(np.diagonal(gram).mean()), 1e-300)
        found = np.linalg.solve(gram, centred.T @ (y - level))
        return found, level - middle @ found


def logistic(
    inputs: Array, labels: Array, damping: float = 1e-3, turns: int = 50
) -> tuple[Array, float]:
    """a [K], b for inputs [N, K] and labels [N] between 0 and 1.

    `damping`: for each sample; it keeps a finite where the labels can be told apart without error.
    """
    x, y = np.asarray(inputs, np.float64), np.asarray(labels, np.float64)
    wide = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.full(wide.shape[1], damping * len(x))
    penalty[-1] = 1e-9 * len(x)
    found = np.zeros(wide.shape[1])
    with one_thread():
        for _ in range(turns):
            share = 1 / (1 + np.exp(-np.clip(wide @ found, -30, 30)))
            slope = wide.T @ (y - share) - penalty * found
            curve = (wide * (share * (1 - share) + 1e-9)[:, None]).T @ wide + np.diag(penalty)
            step = np.linalg.solve(curve, slope)
            found += step * min(1.0, 10.0 / max(float(np.abs(step).max()), 1e-300))
            if np.abs(step).max() < 1e-10:
                break
    return found[:-1], float(found[-1])
