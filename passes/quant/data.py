"""What the samples tell of a weight: the second moment of what it is multiplied by, and the means.

x    of the original model             C = E[x x'T]
x'   of the model as changed so far    H = E[x' x'T]
W' = W C H^-1      what comes nearest to W x on x', which is what codes are chosen for
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.plan import main_use
from onnx_compress.passes.solvers.gptq import inverse_factor
from onnx_compress.passes.solvers.parallel import one_thread
from onnx_compress.passes.statistics import Moment, Moments, collect
from onnx_compress.passes.statistics.request import Request

_PULL = 0.1  # of the mean diagonal of H: how strongly W' is held to W
_ENOUGH = 2.0  # rows for each column, below which W is the better guess


@dataclass(frozen=True)
class Seen:
    """`moments`: H and E[x']. Where x' is not x, `cross`: C, [K, K], `mean`: E[x], [groups, K]."""

    moments: Moments
    cross: Array | None = None
    mean: Array | None = None

    @property
    def parts(self) -> Iterator[tuple[slice, "Seen"]]:
        """Columns that can be looked at alone, one after the other; of most weights all."""
        for place, moments in self.moments.parts():
            yield place, self if moments is self.moments else Seen(moments)

    @cached_property
    def damped(self) -> Array:
        """H of each group, [groups, K, K], fit to be inverted; of many columns, see `parts`."""
        return self.moments.damped()

    @cached_property
    def inverse(self) -> Array:
        """U of `inverse_factor` for each group, once for all weights that see the same."""
        return inverse_factor(self.damped)

    def aim(self, matrix: Array) -> Array:
        """W' for W [groups, R, K]; W itself where x' is x, or too little was seen."""
        from scipy.linalg import cho_solve

        if self._pulled is None:
            return matrix
        factor, right = self._pulled
        with one_thread():
            return np.stack([cho_solve(factor, (part @ right).T).T for part in matrix])

    @cached_property
    def _pulled(self) -> tuple[tuple[Array, bool], Array] | None:
        """Cholesky factor of H, and C, both pulled towards equality."""
        few = self.moments.rows < _ENOUGH * self.moments.columns
        if self.cross is None or few or self.moments.groups > 1 or len(self.moments.stored) > 1:
            return None
        from scipy.linalg import cho_factor

        h = self.moments.matrix()
        size = float(np.diagonal(h).mean())
        if not size > 0:  # nothing but zeros was seen
            return None
        pull = _PULL * np.eye(len(h))
        with one_thread():
            return cho_factor(h / size + pull, lower=True), self.cross / size + pull

    def shift(self, matrix: Array, decoded: Array) -> Array:
        """E[V x' - W x], [groups, R]."""
        before = self.moments.mean if self.mean is None else self.mean
        after = np.einsum("grk,gk->gr", decoded.astype(np.float64), self.moments.mean)
        return np.asarray(after - np.einsum("grk,gk->gr", matrix.astype(np.float64), before))


def multiplying(weights: Sequence[Weight]) -> dict[Weight, Use]:
    """The main uses of weights that multiply something."""
    found = {weight: main_use(weight) for weight in weights}
    return {w: use for w, use in found.items() if use is not None and source(use) is not None}


def at_once(model: Model, uses: dict[Weight, Use], context: Context) -> dict[Weight, Seen]:
    """Of these weights, in the model as it is; empty without samples.

    Where a model has bodies that cannot be looked into, of those outside of them alone. Weights
    whose inputs were never seen, in a branch not taken, are left out.
    """
    if not context.fit or not uses:
        return {}
    try:
        return _collected(model, uses, context)
    except UnsupportedError:
        outside = {w: use for w, use in uses.items() if use.node.graph is model.graph}
        return _collected(model, outside, context) if outside else {}
    except CalibrationError:  # NaN or infinity somewhere: nothing can be told
        return {}


def _collected(model: Model, uses: dict[Weight, Use], context: Context) -> dict[Weight, Seen]:
    requests: dict[Weight, Request] = {weight: Moment(use) for weight, use in uses.items()}
    found = collect(
        model,
        list(requests.values()),
        context.fit,
        threads=2,
        progress=lambda done, total: context.progress(done, total, "samples"),
        cache=context.cache,
    )
    answers = {weight: found[request] for weight, request in requests.items()}
    return {weight: Seen(moments) for weight, moments in answers.items() if moments.rows > 0}
