"""What policy passes call: one weight, the best numbers for what they may cost.

    solve           codes on a grid, and if asked for a low-rank correction of what they lose
    solve_sparse    zeros, and the other weights made to make up for them

    effort 0    the diag(H)-weighted grid, nearest codes          seconds for a whole model
    effort 1    then coordinate descent, scales refitted
    effort 2    from the codes of GPTQ, more sweeps               about twice as long, best

Moments come as they were measured; damping and shrinking is done here. With a `cross` moment the
targets are the outputs of the uncompressed model (see asymmetric.py).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers import masks
from onnx_compress.passes.solvers.asymmetric import shifted
from onnx_compress.passes.solvers.binary import sign_grid
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.gptq import gptq
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.loss import damped, loss, shrunk
from onnx_compress.passes.solvers.lowrank import residual_low_rank
from onnx_compress.passes.solvers.refit import masked_least_squares
from onnx_compress.passes.solvers.rounding import mse_clip

Array = npt.NDArray[Any]
TRUST = 0.9  # in correlations; measured, see docs/solvers.md
SWEEPS = (0, 4, 6)  # of coordinate descent, by effort
_ROUNDS = 2  # of codes and correction in turn


@dataclass(frozen=True)
class Solution:
    """`codes` of `grid`, both as the solvers have them, and factors A [R, r], B [r, K] if any."""

    codes: Array
    grid: Grid
    factors: tuple[Array, Array] | None = None

    def decode(self) -> Array:
        """The numbers: those of the codes, and A B."""
        found = self.grid.decode(self.codes)
        return found if self.factors is None else found + self.factors[0] @ self.factors[1]


def solve(
    weight: Array,
    moment: Array | None,
    bits: int,
    group: int = 0,
    *,
    symmetric: bool = False,
    effort: int = 2,
    rank: int = 0,
    grid: Grid | None = None,
    cross: Array | None = None,
    damping: float = 0.01,
    trust: float = TRUST,
    threads: int | None = None,
) -> Solution:
    """Codes of least loss. `weight`: [R, K] or [G, R, K]; `moment`: [K, K] or [G, K, K].

    Without a moment the nearest codes on the grid of least squared error. `group`: 0 for rows.
    `rank`: of the correction, [R, K] alone. `grid`: to begin with, else `mse_clip`'s, of 1 bit
    that of signs. `trust`: in correlations, see `loss.shrunk`. Raises ValueError for shapes that
    do not fit and an effort that is none.
    """
    if effort not in range(len(SWEEPS)):
        raise ValueError(f"effort {effort}: give 0 to {len(SWEEPS) - 1}")
    array = np.asarray(weight, np.float64)
    if rank and array.ndim != 2:
        raise ValueError("a correction is for one matrix: solve groups one by one")
    if cross is not None and moment is not None:
        array = shifted(array, cross, moment, damping=damping)
    if moment is None:
        found = grid or _grid(array, None, bits, group, symmetric)
        coded = Solution(found.codes(array), found)
        if rank:
            coded = _corrected(array, np.ones(array.shape[1]), coded, rank)
        return coded
    h = shrunk(damped(moment, damping), trust)
    importance = np.diagonal(h, axis1=-2, axis2=-1)

    def coded_of(target: Array) -> Solution:
        begun = grid or _grid(target, importance, bits, group, symmetric)
        if not effort:
            return Solution(begun.codes(target), begun)
        start = gptq(target, h, begun, threads) if effort > 1 else None
        return Solution(*descend(target, h, begun, start, SWEEPS[effort], True, threads))

    best = coded_of(array)
    if not rank:
        return best
    best = _corrected(array, h, best, rank)
    for _ in range(_ROUNDS - 1 if effort else 0):
        rest = array - (best.decode() - best.grid.decode(best.codes))
        other = _corrected(array, h, coded_of(rest), rank)
        if loss(array, other.decode(), h) >= loss(array, best.decode(), h):
            break
        best = other
    return best


def solve_sparse(
    weight: Array,
    moment: Array,
    sparsity: float,
    pattern: tuple[int, int] | None = None,
    *,
    effort: int = 2,
    damping: float = 0.01,
    trust: float = TRUST,
    threads: int | None = None,
) -> Array:
    """V, float64, with the share `sparsity` of zeros in each row, or n of each m for a pattern.

    Effort 0: Wanda's mask alone; 1: and least squares; 2: the mask by what the loss grows by when a
    weight goes (OBS), and least squares. Shapes as for `solve`.
    """
    array = np.asarray(weight, np.float64)
    h = shrunk(damped(moment, damping), trust)
    scores = masks.obs(array, h) if effort > 1 else masks.wanda(array, h)
    mask = masks.n_of_m(scores, *pattern) if pattern else masks.sparse(scores, sparsity)
    if not effort:
        return array * mask
    return masked_least_squares(array, h, mask, threads=threads)


def _grid(weight: Array, importance: Array | None, bits: int, group: int, symmetric: bool) -> Grid:
    if bits == 1:
        return sign_grid(weight, group, importance)
    return mse_clip(weight, bits, group, symmetric, importance)


def _corrected(weight: Array, moment: Array, coded: Solution, rank: int) -> Solution:
    factors = residual_low_rank(weight, coded.grid.decode(coded.codes), moment, rank)
    return Solution(coded.codes, coded.grid, factors)
