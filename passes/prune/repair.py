"""Repair: every weight refitted so that what it gives is what it gave before.

    min |W x - V x' - b|^2 + d |V - W'|^2      x: in the original, x': now, W': W cut
    min |W x + r - V x' - b - r'|^2 + ...      where a residual r is added to what it gives

Front to back: each sees what those before it give after repair. What the data do not tell stays
as it is. Sources: channel pruning (1707.06168), CORP (2602.05243), FSKD (1812.01839).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No, sole_consumer
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.walk import Walk
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight, find_weights
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.bias import add_to_bias, has_bias
from onnx_compress.passes.solvers.parallel import workers
from onnx_compress.passes.statistics.regression import Fit, Regression
from onnx_compress.passes.statistics.request import Look

_REPAIRED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # of what holds weights back; the best is taken
_SAME = 1e-6  # relative; changes below are rounding
_ROUNDING = 1e-5  # of all that is added up: what float32 sums differ by
_BIAS = 128  # bytes of a node that adds one, with its names
_THREADS = 2  # samples that are run, and added up, at a time: two sums are kept
_WIDE = 256  # columns from which on threads are worth their start
_LARGE, _JUDGED = 2048, 128  # columns from which on strengths are tried on some rows, in float32
_ROWS = 4.0  # rows of data for each column, where there are as many
_WORK = 1 << 30  # products of a moment for which more rows are taken: what matters may be rare


@dataclass(frozen=True, eq=False)
class Part:
    """A weight to be repaired: its use, that of the original, and which rows stayed there.

    `beside`: what is added to what it gives, here and in the original.
    """

    weight: Weight
    use: Use
    original: Weight
    reference: Use
    chosen: Array  # [G', R', 2]
    beside: tuple[Tap, Tap] | None = None


Cut = Callable[[Node, int, Array], Array]  # an operand of the original as it is in the model
Solver = Callable[[Part, Array, Fit], Array]  # [groups, rows, columns] of what a weight is now


def parts(model: Model, original: Model, twin: dict[Node, Node], cut: Cut) -> list[Part]:
    """What can be repaired, in the order in which it is computed.

    `twin`: nodes of the original by those of the model.
    """
    before = {(use.node, use.slot): (w, use) for w in find_weights(original) for use in w.uses}
    found: dict[Node, Part] = {}
    for weight in find_weights(model):
        use = weight.uses[0] if weight.sole_use else None
        if use is None or use.node.op not in _REPAIRED or source(use) is None:
            continue
        if use.slot != 1 or use.node.graph is not model.graph or use.node not in twin:
            continue
        entry = before.get((twin[use.node], use.slot))
        if entry is None or weight.dtype != "FLOAT":
            continue
        layout = entry[1].layout
        numbers = np.arange(int(np.prod(layout.shape))).reshape(layout.shape)
        kept = use.layout.matrix(cut(use.node, use.slot, numbers))
        lookup = layout.matrix(numbers)
        group, row = (np.empty(numbers.size, np.int64) for _ in range(2))
        at = np.broadcast_to(np.arange(layout.groups)[:, None, None], lookup.shape)
        group[lookup.reshape(-1)] = at.reshape(-1)
        at = np.broadcast_to(np.arange(layout.rows)[None, :, None], lookup.shape)
        row[lookup.reshape(-1)] = at.reshape(-1)
        chosen = np.stack([group[kept[:, :, 0]], row[kept[:, :, 0]]], axis=-1)
        if (chosen[:, :1, 0] == chosen[:, :, 0]).all():
            beside = _beside(model, use.node, twin) if len(chosen) == 1 else None
            found[use.node] = Part(weight, use, *entry, chosen, beside)
    return [found[node] for node in model.graph.sorted() if node in found]


def _beside(model: Model, node: Node, twin: dict[Node, Node]) -> tuple[Tap, Tap] | None:
    """What Add adds to what a node gives, behind a bias or not."""
    value = node.output
    for _ in range(2):
        added = sole_consumer(value, "Add")
        if isinstance(added, No) or value.exits:
            return None
        slot = 1 if added.input(0) is value else 0
        if model.tensor(added.input(slot)) is None:
            known = added in twin and added.graph is model.graph
            return (Tap(added, slot), Tap(twin[added], slot)) if known else None
        value = added.output
    return None


class _Ahead:
    """Which values hang on weights that are still to be repaired: they must not be run yet."""

    def __init__(self, items: Sequence[Part]) -> None:
        self.pending = {part.use.node for part in items}
        self._free: set[Node] = set()

    def ready(self, tap: Tap) -> bool:
        """Whether what a tap sees is final."""
        value = tap.node.input(tap.slot)
        todo = [value.producer] if value is not None else []
        seen: set[Node] = set()
        while todo:
            node = todo.pop()
            if node is None or node in self._free or node in seen:
                continue
            if node in self.pending:
                return False
            seen.add(node)
            todo += [v.producer for v in (*node.inputs, *node.captures) if v is not None]
        self._free |= seen
        return True


def repair(
    model: Model,
    original: Model,
    items: Sequence[Part],
    feeds: Sequence[Feed],
    progress: Callable[[int, int], None],
    solve: Solver | None = None,
    spare: int = 0,
) -> set[str]:
    """Refit all parts; gives the names of the weights that were changed.

    `solve`: by default least squares, see `solved`. `spare`: bytes that biases which are added may
    take, those of the first parts before those of the last; without one, a part is fitted to pass
    through zero.
    """
    done: set[str] = set()
    now, then = Walk(model, feeds, _THREADS), Walk(original, feeds, _THREADS)
    look = Look(windows=_ROWS, samples=max(len(feeds), 1), work=_WORK)
    ahead = _Ahead(items)
    with workers(_THREADS) as pool:
        for at, part in enumerate(items):
            beside = part.beside if part.beside and ahead.ready(part.beside[0]) else None
            ahead.pending.discard(part.use.node)
            try:
                wanted = replace(part, beside=beside)
                fit = _fit(wanted, now, then, look, len(feeds), solve is None, pool)
            except UnsupportedError:  # what goes there is no tensor; later ones may be reached
                continue
            if fit is None:
                continue
            cost = 0 if has_bias(model, part.use) else _BIAS + 4 * fit.target.size
            if cost > spare:
                fit, cost = fit.through_zero(), 0
            if _refit(model, part, fit, solve or partial(_least_squares, pool)):
                done.add(part.weight.name)
                spare -= cost
            progress(at + 1, len(items))
    return done


def _fit(
    part: Part, now: Walk, then: Walk, look: Look, samples: int, changed: bool, pool: Executor
) -> Fit | None:
    """What to fit to; with `changed`, None where neither the weight nor what it sees has."""
    old, new = part.original.array(), part.weight.array()
    same = changed and np.array_equal(part.reference.matrix(old), part.use.matrix(new))
    request = Regression(
        part.use,
        then.model,
        part.reference,
        part.reference.matrix(old),
        part.chosen,
        beside=part.beside,
    )
    sums = request.start(look)
    places = [
        (tap, walk, value)
        for walk, taps in ((now, sums.taps), (then, sums.reference))
        for tap in taps
        if (value := tap.node.input(tap.slot)) is not None
    ]
    for _, walk, value in places:
        walk.reach([value])
    for first in range(0, samples, _THREADS):
        jobs = []
        for sample in range(first, min(first + _THREADS, samples)):
            seen = {tap: walk.value(value, sample) for tap, walk, value in places}
            pairs = zip(sums.taps, sums.reference, strict=True)
            same = same and all(np.array_equal(seen[one], seen[other]) for one, other in pairs)
            jobs.append(sums.adding(seen, None))
        for _ in pool.map(_called, jobs):
            pass  # raises what was raised
    return None if same else sums.result()


def _called(job: Callable[[], None]) -> None:
    job()


def _least_squares(pool: Executor, _: Part, old: Array, fit: Fit) -> Array:
    new = old.copy()
    for group in range(len(old) if fit.inner.size else 0):
        new[group] = solved(old[group], fit.inner[:, group], fit.cross[:, group], pool)
    return new


def _refit(model: Model, part: Part, fit: Fit, solve: Solver) -> bool:
    """Solve, and write weight and bias."""
    old = part.use.matrix(part.weight.array()).astype(np.float64)
    new = solve(part, old, fit)
    shift = fit.target - np.einsum("grk,gk->gr", new, fit.mean)
    shift[np.abs(shift) <= _ROUNDING * np.einsum("grk,gk->gr", np.abs(new), _sizes(fit))] = 0
    size = float(np.abs(new - old).max()) + float(np.abs(shift).max())
    if size <= _SAME * max(float(np.abs(old).max()), 1e-30) or not np.isfinite(size):
        return False
    if shift.any() and not add_to_bias(model, part.use, shift, grow=True):
        return False
    stored = part.use.stored(new.astype(np.float32), part.weight.shape)
    model.set_constant(part.weight.value, stored)
    return True


def _sizes(fit: Fit) -> Array:
    """Of the inputs, the root of the mean square, [G, K]; of too many columns that of the means."""
    squares = fit.mean**2
    if fit.inner.size:
        squares = squares + np.diagonal(fit.inner.mean(0), axis1=1, axis2=2)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def solved(old: Array, inner: Array, cross: Array, pool: Executor | None = None) -> Array:
    """V, near `old` as far as that is best on samples it was not fitted to.

    `inner` [2, K, K], `cross` [2, R, K]: of one half of the samples and of the other. A change
    costs by what it does to the output, so the scales of the columns do not matter. Rows that lack
    no more than rounding stay: noise in place of zeros would be the worse for later passes.
    `pool`: tries several strengths at a time, where that is worth it.
    """
    given = [old @ i for i in inner]
    left = [c - g for c, g in zip(cross, given, strict=True)]  # what is still missing
    large = len(inner[0]) >= _LARGE
    some = slice(None, None, -(-len(old) // _JUDGED)) if large else slice(None)
    kind = np.float32 if large else np.float64
    one, other = (i.astype(kind, copy=False) for i in inner)
    aim, judge = (m[some].astype(kind, copy=False) for m in left)

    def loss(strength: float) -> float:
        """|missing - step x|^2 on the other half, but for what does not depend on the step."""
        try:
            step = _step(one, aim, strength)
        except np.linalg.LinAlgError:  # the data are too alike for this little
            return 0.0
        return float(((step @ other) * step - 2 * (step * judge)).sum(dtype=np.float64))

    strengths = _STRENGTHS if min(_traces(inner)) > 0 else ()
    mapped = map if pool is None or len(inner[0]) < _WIDE else pool.map
    losses = [0.0, *mapped(loss, strengths)]
    best = int(np.argmin(np.nan_to_num(losses)))
    if not best:
        return old
    missing = (left[0] + left[1]) / 2
    step = _step(inner.mean(0), missing, strengths[best - 1])
    gain, power = (step * missing).sum(1), ((given[0] + given[1]) / 2 * old).sum(1)
    return np.asarray(old + np.where(gain > _SAME**2 * power, 1, 0)[:, None] * step)


def _step(inner: Array, missing: Array, strength: float) -> Array:
    from scipy.linalg import cho_factor, cho_solve

    diagonal = np.maximum(np.diagonal(inner), 0)
    floor = _SAME * max(float(diagonal.mean()), 1e-30)
    held = inner.copy()
    held[np.diag_indices_from(held)] += strength * diagonal + floor
    factor = cho_factor(held, lower=True, overwrite_a=True)
    return np.asarray(cho_solve(factor, missing.T).T)


def _traces(inner: Array) -> list[float]:
    return [float(np.trace(half)) for half in inner]
