"""Stored: are the weights in the file those that were written, and near those of the original?

    with digests       a changed tensor is named, whatever was changed
    without            (decoded - original) / step      what stands out is suspect

A step is what one code is worth. Rounding leaves half a step, solvers that make up for rounding a
few; a flipped code, a swapped scale or a wrong zero point leaves many, in one weight among all, in
one channel among others, or in single numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnx_compress.ir.graph import Model, digests
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights.effective import effective
from onnx_compress.passes.solvers.parallel import workers
from onnx_compress.passes.verify.diagnosis import diagnose
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.pairs import Pair, expected, pairs

LEVEL = "stored"
_AT_ONCE = 2  # weights that are looked at, each of which takes five times its memory
_WEIGHT, _CHANNEL, _NUMBER = 1.0, 1.0, 8.0  # steps that are fine in any model
_NUMBER_AT_LEAST = 2.5  # of few levels, of which that is most
_TIMES_WEIGHT, _TIMES_CHANNEL, _TIMES_NUMBER = 4.0, 6.0, 12.0  # of what is usual there
_FEW = 1e-3  # share of numbers that stand out one by one
_ENOUGH = 16  # numbers of a channel whose mean says something
_PRUNED = 0.2  # share of zeros from which zeros were meant
_HALF, _TINY = 2.0**-10, 1e-7  # relative error of float16, twice; what is too small for it
_SIDE = 0.75  # steps to one side, of all numbers
_SMALLER, _LARGER = 0.7, 1.4  # what the decoded weight is times to be nearest to the original
_LIKE = 0.3  # cosine that a weight has with what was made of it, whatever that was


@dataclass(frozen=True)
class WeightCheck:
    """One weight against the original's. `error`: L2, relative; `steps`: RMS, None without."""

    weight: str
    node: str
    operator: str
    error: float
    steps: float | None


@dataclass(frozen=True)
class StoredWeights:
    """`digests`: whether the file has any. `changed`: tensors that are not as they were written.

    `unmatched`: operators whose weight is of another size than the original's, or that the
    original has not; or whose numbers cannot be told.
    """

    digests: bool
    changed: tuple[str, ...]
    weights: tuple[WeightCheck, ...]
    unmatched: tuple[str, ...]
    findings: tuple[Finding, ...]
    pairs: tuple[Pair, ...]


def stored(
    original: Model,
    compressed: Model,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> StoredWeights:
    """Compare the weights of a compressed model with its digests and with the original's.

    `original`: cleaned up as the compressed model was, or weights that BatchNormalization went
    into are far from their origin.
    """
    known = any(entry.key == digests.KEY for entry in compressed.shell.metadata_props)
    changed = digests.changed(compressed)
    sure = known and not {"", digests.KEY} & set(changed)  # what was changed has a name
    found, rest = pairs(effective(original), effective(compressed))
    looks: list[_Look] = []
    with workers(_AT_ONCE) as pool:
        looked_at = partial(_look, explain=not sure)
        # not by name: what is not begun goes with the loop that is cancelled
        for done, (pair, look) in enumerate(zip(found, pool.map(looked_at, found), strict=True)):
            if look is not None:
                looks.append(look)
            else:
                rest.append(pair.compressed)
            progress(done + 1, len(found))
    usual = _low([look.rms for look in looks if look.rms is not None])
    findings = [_changed(name, compressed) for name in changed if name]
    for look in looks:
        text = "" if sure else look.suspicion(usual)
        if text:
            findings.append(Finding(LEVEL, Severity.SUSPECT, look.pair.compressed.name, text))
    if "" in changed and not any(f.severity == Severity.SUSPECT for f in findings):
        text = "tensors below a kilobyte are not those that were written"
        findings.append(Finding(LEVEL, Severity.WRONG, "", text))
    checks = tuple(
        WeightCheck(look.pair.name, look.pair.compressed.name, look.operator, look.error, look.rms)
        for look in looks
    )
    names = tuple(weight.name for weight in rest)
    return StoredWeights(known, tuple(changed), checks, names, tuple(findings), tuple(found))


def _low(numbers: list[float] | Array) -> float:
    """What is usual, if no more than three in four are out of the usual: the lower quartile."""
    return float(np.quantile(numbers, 0.25, method="lower")) if len(numbers) else 0.0


def _changed(name: str, model: Model) -> Finding:
    readers = [
        node.name
        for graph in model.graphs()
        for value, _ in model.stored(graph)
        if value.name == name or name.endswith(f"/{value.name}")  # in a body
        for node in value.consumers[:1]
    ]
    text = f"was changed after it was written, by its SHA-256 (read by {readers[0]})"
    if not readers:
        text = "is not as it was written: missing, or in no digest"
    return Finding(LEVEL, Severity.WRONG, name, text)


@dataclass(frozen=True)
class _Look:
    """What is kept of a weight: no arrays.

    `inner`: what stands out within it, in words; `whole`: of all of it. Empty if not asked for.
    """

    pair: Pair
    operator: str
    error: float
    rms: float | None
    inner: str
    whole: str

    def suspicion(self, usual: float) -> str:
        """Why it is suspect; "" if it is not. `usual`: RMS in steps of the model's weights."""
        if self.inner:
            return self.inner
        if self.rms is not None and self.rms > max(_WEIGHT, _TIMES_WEIGHT * usual):
            return f"{self.rms:.1f} steps from the original (others {usual:.2f}): {self.whole}"
        return ""


@np.errstate(all="ignore")  # threads have settings of their own
def _look(pair: Pair, explain: bool) -> _Look | None:
    """`explain`: also what stands out, which takes most of the time."""
    want, got = expected(pair), pair.compressed.numbers()
    operator = pair.compressed.node.op
    if want is None or got is None:
        return None
    if want.size != got.size:
        return None  # another weight: pruned channels, one of several factors
    if want.shape != got.shape:
        text = f"its shape is {list(got.shape)}, the original's {list(want.shape)}"
        return _Look(pair, operator, float("inf"), None, text, "")
    one, other = want.astype(np.float32, copy=False), got.astype(np.float32, copy=False)
    if not np.isfinite(other).all() and np.isfinite(one).all():
        return _Look(pair, operator, float("inf"), None, "holds NaN or infinity", "")
    odd = ~np.isfinite(one)  # masks hold -infinity
    if odd.any() and np.array_equal(one[odd], other[odd], equal_nan=True):
        one, other = (np.where(odd, np.float32(0), array) for array in (one, other))
    size = float(np.linalg.norm(one)) or 1.0
    error = float(np.linalg.norm(other - one)) / size
    if not error:
        return _Look(pair, operator, 0.0, None, "", "")
    step = pair.compressed.steps()
    if step is None or step.shape != one.shape or not np.all(step > 0):
        inner = _without_steps(one, other) if explain else ""
        return _Look(pair, operator, error, None, inner, "")
    off = _deviation(one, other, step)
    rms = float(np.sqrt(np.mean(off**2))) if off.size else 0.0
    if not explain:
        return _Look(pair, operator, error, rms, "", "")
    inner = _unlike(one, other) or _shifted(off) or _numbers(off, _levels(other, step))
    whole = diagnose(one, other, step) if rms > _WEIGHT else ""
    return _Look(pair, operator, error, rms, inner, whole)


def _deviation(one: Array, other: Array, step: Array) -> Array:
    """(decoded - original) / step; 0 where a number was clipped, or pruned where many were."""
    off = (other - one) / step
    codes = np.abs(other / step)
    top = codes.max(initial=0.0)
    clipped = (codes >= top - 0.5) & (np.abs(one) > np.abs(other)) & (one * other > 0)
    off[clipped] = np.clip(off[clipped], -0.5, 0.5)
    zeros = other == 0
    if zeros.mean() > _PRUNED:
        off[zeros] = 0.0
    return np.asarray(off)


def _channels(off: Array) -> str:
    """Channels that stand out among the others of their axis."""
    for axis in sorted({0, off.ndim - 1}):
        others = tuple(at for at in range(off.ndim) if at != axis)
        if off.size // max(off.shape[axis], 1) < _ENOUGH or off.shape[axis] < 2:
            continue
        rms = np.sqrt(np.mean(off**2, axis=others))
        usual = _low(rms)
        wrong = np.flatnonzero(rms > max(_CHANNEL, _TIMES_CHANNEL * usual))
        if len(wrong):
            far = float(rms[wrong].max())
            named = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
            return (
                f"{len(wrong)} of {len(rms)} channels along axis {axis} ({named}) are up to "
                f"{far:.1f} steps from the original, the others {usual:.2f}"
            )
    return ""


def _levels(other: Array, step: Array) -> float:
    """How many steps there are between the lowest and the highest code, about."""
    return float(2 * np.abs(other / step).max(initial=0.0))


def _numbers(off: Array, levels: float) -> str:
    """Single numbers that stand out; channels, where there are many in a few of these."""
    fine = min(_NUMBER, max(levels / 4, _NUMBER_AT_LEAST))
    wrong = np.argwhere(np.abs(off) > max(fine, _TIMES_NUMBER * float(np.median(np.abs(off)))))
    channels = _channels(off) if len(wrong) > _FEW * off.size or not len(wrong) else ""
    if channels or not len(wrong):
        return channels
    place = list(map(int, wrong[0]))
    far = float(np.abs(off).max())
    return (
        f"{len(wrong)} numbers (the first at {place}) are up to {far:.0f} steps from the original"
    )


def _shifted(off: Array) -> str:
    """Whether all numbers are off to the same side: rounding, and what makes up for it, is not."""
    mean, spread = float(off.mean()), float(off.std())
    if abs(mean) < max(_SIDE, 2 * spread):
        return ""
    return f"all numbers are about {mean:+.1f} steps off, as with a wrong zero point"


def _unlike(one: Array, other: Array) -> str:
    """Another direction, or another size: pruning and binary codes keep both."""
    product = float(np.vdot(one, other)) / (float(np.linalg.norm(one)) or 1.0)
    size = float(np.linalg.norm(other)) or 1.0
    cosine, factor = product / size, float(np.vdot(one, other)) / size**2
    if cosine >= _LIKE:
        if _SMALLER <= factor <= _LARGER:
            return ""
        return f"it is about {1 / factor:.2g} times the original's"
    return f"it does not look like the original's (cosine {cosine:.2f}): {diagnose(one, other)}"


def _without_steps(one: Array, other: Array) -> str:
    """float16 must be near; plain numbers that are mostly the original's, all of them."""
    text = _unlike(one, other)
    if text:
        return text
    zeros = other == 0
    kept = np.ones(one.shape, bool) if zeros.mean() <= _PRUNED else ~zeros
    far = np.abs(other - one) > _HALF * np.abs(one) + _TINY
    wrong = np.argwhere(far & kept)
    if not len(wrong):
        return ""
    if len(wrong) > _PRUNED * max(int(kept.sum()), 1):  # fitted anew; or only put elsewhere
        same = np.array_equal(np.sort(one, None), np.sort(other, None))
        return diagnose(one, other) if same else ""
    place = list(map(int, wrong[0]))
    return f"{len(wrong)} numbers (the first at {place}) are not the original's, all others are"
