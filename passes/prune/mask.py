"""Single weights set to zero, and those that stay made to make up for them.

    W   ->   V = V * mask       mask: by scores of W', what is best without zeros
                                V: |W x - V x' - b|^2 least, x: in the original, x': now

With real inputs layers are fitted front to back, as when channels go (repair.py); weights that are
out of its reach, to the inputs of the original; without inputs nothing is fitted. Sources: Han et
al., 1506.02626; Wanda (2306.11695); SparseGPT (2301.00774) for the order of the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis.channels import Twins
from onnx_compress.ir.errors import CalibrationError, PreconditionError, UnsupportedError
from onnx_compress.ir.graph import Model, Value, clone
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.densify import densify
from onnx_compress.ir.weights.forms import Dense, Sparse, thin_out
from onnx_compress.ir.weights.forms.sparse import MINIMUM_OPSET
from onnx_compress.ir.weights.inputs import source
from onnx_compress.kernels.magnitude import magnitude_mask
from onnx_compress.passes.amount import amount
from onnx_compress.passes.base import Context, Entry, Report
from onnx_compress.passes.prune.repair import Part, parts, repair, solved
from onnx_compress.passes.prune.scores import WITH_DATA, mask_of, scored
from onnx_compress.passes.prune.share import curve, shares
from onnx_compress.passes.reachable import raise_to, reachable
from onnx_compress.passes.solvers.loss import damped, shrunk
from onnx_compress.passes.solvers.parallel import one_thread
from onnx_compress.passes.solvers.refit import masked_least_squares
from onnx_compress.passes.solvers.solve import TRUST
from onnx_compress.passes.statistics import Moment, Moments, collect
from onnx_compress.passes.statistics.regression import Fit
from onnx_compress.passes.statistics.request import Request
from onnx_compress.passes.verify.emitted import emit

_SMALLEST = 64  # elements; below, single weights matter too much


@dataclass(frozen=True)
class Zeros:
    """What is asked for: see the options of `Prune`. `everywhere`: one threshold for all layers."""

    share: float
    pattern: str = "unstructured"
    score: str | None = None
    everywhere: bool = False
    refit: bool = True


def prune_weights(model: Model, context: Context, asked: Zeros) -> Report:
    """Prune every matrix that multiplies; tables that rows are picked from stay.

    Raises PreconditionError for scores of inputs without any.
    """
    if asked.score in WITH_DATA and not context.calibrated:
        raise PreconditionError(
            f"score={asked.score!r} needs real inputs", "give --calib, or score='magnitude'"
        )
    plain = densify(model)
    found = context.weights(model)
    skipped = [Entry(item.name, item.reason) for item in found.skipped]
    chosen: list[Weight] = []
    for weight in found:
        reason = _unfit(weight)
        if reason:
            skipped.append(Entry(weight.name, reason))
        else:
            chosen.append(weight)
    before = {weight.value: weight.array() for weight in chosen}
    refitted = _Layers(model, context, asked, chosen).prune()
    raised = _raised(model, context, chosen)
    report = _stored(before, chosen, refitted, skipped, raised)
    thin_out(model, plain)  # those that are excluded
    return report


def _unfit(weight: Weight) -> str:
    if any(use.gathered for use in weight.uses):
        return "rows are picked from it: zeros there are lost words, not lost connections"
    if weight.size < _SMALLEST:
        return f"only {weight.size} weights"
    return ""


class _Layers:
    """The weights of one model on their way."""

    def __init__(self, model: Model, context: Context, asked: Zeros, chosen: list[Weight]) -> None:
        self.model, self.context, self.asked, self.chosen = model, context, asked, chosen
        self.score = asked.score or ("obs" if context.calibrated else "magnitude")
        self.shares: dict[Value, float] = {}

    def prune(self) -> set[Value]:
        """Prune all; gives those that were refitted."""
        original = clone(self.model)
        front, later = self._reached(), set[Value]()
        rest = [weight for weight in self.chosen if weight.value not in front]
        everywhere = self.asked.everywhere
        moments = self._moments(self.chosen if everywhere else rest)
        if everywhere:
            self._share_out(moments)
        for weight in rest:
            seen = moments.get(weight)
            if seen is not None and self.asked.refit:
                later.add(weight.value)
            self._prune_alone(weight, seen)
        if front:
            later |= self._front_to_back(original, front)
        return later

    def _reached(self) -> dict[Value, Weight]:
        """Weights that are fitted front to back."""
        if not self.context.calibrated or not self.asked.refit:
            return {}
        items = parts(self.model, self.model, {n: n for n in self.model.nodes()}, _whole)
        values = {part.weight.value for part in items}
        return {weight.value: weight for weight in self.chosen if weight.value in values}

    def _moments(self, weights: list[Weight]) -> dict[Weight, Moments]:
        """What flows into weights of one use, as far as that is needed and can be seen."""
        if not self.context.calibrated or not (self.asked.refit or self.score in WITH_DATA):
            return {}
        uses = {w: w.uses[0] for w in weights if w.sole_use and source(w.uses[0]) is not None}
        requests: dict[Weight, Request] = {weight: Moment(use) for weight, use in uses.items()}
        if not requests:
            return {}
        try:
            answers = collect(self.model, list(requests.values()), self.context.fit)
        except (CalibrationError, UnsupportedError):  # no numbers, or no tensors: sizes decide
            return {}
        found = {weight: answers[request] for weight, request in requests.items()}
        return {w: m for w, m in found.items() if m.rows and len(m.stored) == 1}

    def _share_out(self, moments: Mapping[Weight, Moments]) -> None:
        curves, sizes = {}, {}
        for weight in self.chosen:
            matrix = _matrix(weight, weight.array())
            h = _damped(moments.get(weight))
            score = self.score if h is not None else "magnitude"
            found = scored(score, matrix, h)
            if h is not None:
                power = float(((matrix @ h) * matrix).sum())
                found = (found**2 if score == "wanda" else found) / max(power, 1e-30)
            curves[weight.value], sizes[weight.value] = curve(found), weight.size
        kinds = {weight.value for weight in self.chosen if weight in moments}
        for some in (kinds, set(curves) - kinds):  # losses and sizes are not compared
            self.shares |= shares({v: curves[v] for v in some}, sizes, self.asked.share)

    def _mask(self, value: Value, scores: Array, score: str) -> Array:
        share = self.shares.get(value, self.asked.share)
        rows = score == "wanda" and not self.asked.everywhere
        return mask_of(scores, share, self.asked.pattern, rows)

    def _prune_alone(self, weight: Weight, seen: Moments | None) -> None:
        """Fitted to the original's inputs, or not at all."""
        array, h = weight.array(), _damped(seen)
        if h is None and self.asked.pattern == "unstructured":
            mask = magnitude_mask(array, self.shares.get(weight.value, self.asked.share))
            Dense(np.where(mask, array, array.dtype.type(0))).emit(weight)
            return
        matrix = _matrix(weight, array)
        score = self.score if h is not None else "magnitude"
        mask = self._mask(weight.value, scored(score, matrix, h), score)
        new = np.where(mask, matrix, 0.0)
        if h is not None and self.asked.refit:
            with one_thread():
                new = masked_least_squares(matrix, h, mask)
        stored = weight.uses[0].stored(new, weight.shape).astype(array.dtype)
        Dense(np.ascontiguousarray(stored)).emit(weight)

    def _front_to_back(self, original: Model, front: Mapping[Value, Weight]) -> set[Value]:
        items = parts(self.model, original, Twins(self.model, original).node, _whole)
        items = [part for part in items if part.weight.value in front]

        def progress(done: int, total: int) -> None:
            self.context.progress(done, total, "weights")

        repair(self.model, original, items, self.context.fit, progress, self._fitted)
        missed = {v for v, w in front.items() if not self._is_pruned(w)}
        for value in missed:
            self._prune_alone(front[value], None)
        return set(front) - missed

    def _is_pruned(self, weight: Weight) -> bool:
        share = self.shares.get(weight.value, self.asked.share)
        return float((weight.array() == 0).mean()) >= 0.9 * share

    def _fitted(self, part: Part, old: Array, fit: Fit) -> Array:
        """The mask and its least squares, [groups, rows, columns]."""
        value = part.weight.value
        if not fit.inner.size:  # too wide to look into
            return old * self._mask(value, scored("magnitude", old, None), "magnitude")
        groups = range(len(old))
        aim = np.stack([solved(old[g], fit.inner[:, g], fit.cross[:, g]) for g in groups])
        h = shrunk(damped(fit.inner.mean(0)), TRUST)
        mask = self._mask(value, scored(self.score, aim, h), self.score)
        return masked_least_squares(aim, h, mask)


def _whole(_node: object, _slot: int, array: Array) -> Array:
    return array


def _matrix(weight: Weight, array: Array) -> Array:
    """[groups, rows, columns] of the first use; of none, rows along the first axis."""
    first: Use | None = next(iter(weight.uses), None)
    if first is None:
        return np.asarray(array.reshape(1, len(array), -1), np.float64)
    return np.asarray(first.matrix(array), np.float64)


def _damped(seen: Moments | None) -> Array | None:
    """H of all groups, [G, K, K]."""
    if seen is None:
        return None
    # once more than in `damped`: many weights go at once; 0.1 to 0.6 dB better on five models
    return shrunk(seen.damped(), TRUST)


def _raised(model: Model, context: Context, chosen: list[Weight]) -> list[Entry]:
    """Raise the operator set to one in which zeros can be left out, where that would be smaller."""
    now = model.opset()
    if now >= MINIMUM_OPSET or not any(Sparse(each.array()).saves() > 0 for each in chosen):
        return []
    newest, _ = reachable(model, context, [MINIMUM_OPSET])
    if newest < MINIMUM_OPSET:
        return []
    raise_to(model, context, newest)
    return [Entry("operator set", f"raised from {now} to {newest}")]


def _stored(
    before: Mapping[Value, Array],
    chosen: list[Weight],
    refitted: set[Value],
    skipped: list[Entry],
    changes: list[Entry],
) -> Report:
    """Write what is smaller without its zeros so, and tell what was done."""
    zeros = total = dense = small = 0
    for weight in chosen:
        array = weight.array()
        zeros += int((array == 0).sum())
        total += array.size
        form = Sparse(array)
        thin = form.saves() > 0 and form.fits(weight)
        share = float((array == 0).mean())
        if np.array_equal(array, before[weight.value], equal_nan=True):
            why = f"{share:.0%} of it are zero already" if share else "too narrow for such zeros"
            skipped.append(Entry(weight.name, why))
        else:
            again = ", the others refitted" if weight.value in refitted else ""
            changes.append(Entry(weight.name, f"{share:.0%} set to zero{again}"))
        if thin:
            dense, small = dense + weight.nbytes, small + form.nbytes()
            emit(form, weight)
    summary = f"{zeros / max(total, 1):.0%} of {total:,} weights are zero"
    return Report(tuple(changes), tuple(skipped), summary, _notes(changes, dense, small))


def _notes(changes: list[Entry], dense: int, small: int) -> tuple[str, ...]:
    if not changes:
        return ()
    time = "unstructured zeros do not speed up ONNX Runtime, which has no kernels for them"
    if not dense:
        return ("zeros are stored densely: they save neither bytes nor time in ONNX Runtime",)
    size = f"{amount(dense)} of weights are stored without their zeros in {amount(small)}"
    return (time, f"{size}, and put together when the model is loaded")
