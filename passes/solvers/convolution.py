"""Convolutions as two or three smaller ones, refitted in turn against the loss.

    channel    k x k, I -> r;   1 x 1, r -> O            V = A[o,r] B[r,i,y,x]
    spatial    k x 1, I -> r;   1 x k, r -> O            V = A[o,r,x] B[r,i,y]
    tucker     1 x 1, I -> a;   k x k, a -> b;   1 x 1, b -> O    V = A[o,b] C[b,a,y,x] B[a,i]

The matrix is W [O, I*y*x], the moment H that of unrolled windows. `channel` is the whitened SVD and
the best there is. In the others the last factors are, for a given B, the best there are (least
squares; for Tucker the best of rank b, by reduced-rank regression), and B descends along conjugate
gradients with the others fixed; in turn, so that the loss never rises. Sources: Jaderberg
1405.3866 (spatial), Zhang 1505.06798 (channel), Kim 1511.06530 (Tucker-2).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.lowrank import whitened_svd
from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]
_STEPS = 8  # of conjugate gradients in a turn


@dataclass(frozen=True)
class Pattern:
    """How the last factor A and the first one B make a kernel, and which axes B has."""

    product: str  # A, B -> V
    first: str  # axes of B: its rank, then axes of the kernel


_SPATIAL = Pattern("orx,riy->oiyx", "iy")
_TUCKER = Pattern("oayx,ai->oiyx", "i")


def channel(kernel: Array, moment: Array, rank: int) -> tuple[Array, Array]:
    """B [r, I, y, x] and A [O, r, 1, 1] of least loss: two convolutions, in the order they run.

    `kernel`: [O, I, y, x]; `moment`: [I*y*x, I*y*x], damped. The first takes over the strides.
    """
    matrix = kernel.reshape(len(kernel), -1)
    last, first = whitened_svd(matrix, moment, rank)
    return first.reshape(-1, *kernel.shape[1:]), last[:, :, None, None]


def spatial(kernel: Array, moment: Array, rank: int, turns: int = 3) -> tuple[Array, Array]:
    """B [r, I, y, 1] and A [O, r, 1, x], in the order they run. Shapes as for `channel`."""
    with one_thread():
        first = _begin(kernel, moment, rank, _SPATIAL)
        last = _least_squares(kernel, moment, first, _SPATIAL)
        for _ in range(turns):
            first = _descended(kernel, moment, last, first, _SPATIAL)
            last = _least_squares(kernel, moment, first, _SPATIAL)
    return first[..., None], last[:, :, None]


def tucker(
    kernel: Array, moment: Array, ranks: tuple[int, int], turns: int = 3
) -> tuple[Array, Array, Array]:
    """B [a, I, 1, 1], C [b, a, y, x], A [O, b, 1, 1] for `ranks` (a, b); else as `channel`."""
    inner, outer = ranks
    with one_thread():
        first = _begin(kernel, moment, inner, _TUCKER)
        last, core = _reduced(kernel, moment, first, outer)
        for _ in range(turns):
            joined = np.tensordot(last, core, 1)
            first = _descended(kernel, moment, joined, first, _TUCKER)
            last, core = _reduced(kernel, moment, first, outer)
    return first[..., None, None], core, last[..., None, None]


def _begin(kernel: Array, moment: Array, rank: int, pattern: Pattern) -> Array:
    """B by the SVD of the kernel with all axes that B has not as rows.

    Whitened by the part of the moment that B sees, the mean over the other axes.
    """
    axes = ["oiyx".index(axis) for axis in pattern.first]
    rest = [axis for axis in range(4) if axis not in axes]
    shape = [kernel.shape[axis] for axis in axes]
    matrix = kernel.transpose(*rest, *axes).reshape(-1, int(np.prod(shape)))
    whole = np.asarray(moment, np.float64).reshape(*kernel.shape[1:], *kernel.shape[1:])
    left, right = pattern.first, pattern.first.upper()
    others = "".join(axis for axis in "iyx" if axis not in left)
    spelled = "iyx" + "".join(axis if axis in others else axis.upper() for axis in "iyx")
    seen = np.einsum(f"{spelled}->{left}{right}", whole).reshape(matrix.shape[1], -1)
    _, found = whitened_svd(matrix, seen, rank)
    return _orthonormal(found.reshape(-1, *shape))


def _orthonormal(first: Array) -> Array:
    """B with orthonormal rows of the same span: A makes up for the difference."""
    found = np.linalg.qr(first.reshape(len(first), -1).T)[0].T
    return np.asarray(found.reshape(-1, *first.shape[1:]))


def _basis(kernel: Array, first: Array, pattern: Pattern) -> Array:
    """What A is multiplied by: V = A P, P [m, I*y*x], m all axes of A but the outputs."""
    axes = pattern.product.split(",")[0][1:]
    sizes = dict(zip("oiyx", kernel.shape, strict=True)) | {axes[0]: len(first)}
    shape = [sizes[axis] for axis in axes]
    many = int(np.prod(shape))
    found = np.einsum(pattern.product, np.eye(many).reshape(many, *shape), first)
    return np.asarray(found.reshape(many, -1))


def _seen(kernel: Array, moment: Array, basis: Array) -> tuple[Array, Array]:
    """P H PT, and W H PT (P H PT)^-1: the best A for this basis.

    The rows of P are orthonormal, so what is inverted is no worse than H.
    """
    from scipy.linalg import cho_factor, cho_solve

    through = moment @ basis.T
    gram = basis @ through
    matrix = kernel.reshape(len(kernel), -1)
    return gram, cho_solve(cho_factor(gram, lower=True), (matrix @ through).T).T


def _least_squares(kernel: Array, moment: Array, first: Array, pattern: Pattern) -> Array:
    basis = _basis(kernel, first, pattern)
    best = _seen(kernel, moment, basis)[1]
    return np.asarray(best.reshape(len(kernel), len(first), -1))


def _reduced(kernel: Array, moment: Array, first: Array, rank: int) -> tuple[Array, Array]:
    """A [O, b] and C [b, a, y, x]: the best A C of rank b for B."""
    gram, best = _seen(kernel, moment, _basis(kernel, first, _TUCKER))
    last, core = whitened_svd(best, gram, rank)
    return last, core.reshape(-1, len(first), *kernel.shape[2:])


def _descended(kernel: Array, moment: Array, last: Array, first: Array, pattern: Pattern) -> Array:
    """B after some steps of conjugate gradients with A fixed. The loss is quadratic in B."""
    terms, made = pattern.product.split("->")
    left, right = terms.split(",")

    def kernel_of(part: Array) -> Array:
        return np.asarray(np.einsum(pattern.product, last, part, optimize=True))

    def along(change: Array) -> Array:
        turned = (change.reshape(len(kernel), -1) @ moment).reshape(kernel.shape)
        back = np.einsum(f"{left},{made}->{right}", last, turned, optimize=True)
        return np.asarray(back)

    found = first.copy()
    residual = along(kernel - kernel_of(first))
    direction, energy = residual, float((residual**2).sum())
    for _ in range(_STEPS):
        ahead = along(kernel_of(direction))
        curvature = float((direction * ahead).sum())
        if curvature <= 0:
            break
        step = energy / curvature
        found = found + step * direction
        residual = residual - step * ahead
        after = float((residual**2).sum())
        direction, energy = residual + after / energy * direction, after
    return _orthonormal(found)
