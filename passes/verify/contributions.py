"""Where the error comes from: a table of weights by what they add to it.

    put back       error of all decoded weights, and without each in turn: the original's there
    first order    |x (D - W)| / |x W| of each product, x the original's: no run of the model each

The first runs the original once for each weight, in one session whose weights are inputs; the
second is for models for which that takes too long: it says how large the error is where it is
made, not what becomes of it. Both are about weights alone: what products of bytes lose by rounding
their inputs is the rest of the error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.opened import opened
from onnx_compress.ir.runtime import Feed, Session
from onnx_compress.ir.runtime.watch import Tap, Watch
from onnx_compress.ir.weights import Use, find_weights
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.pairs import Pair, restored
from onnx_compress.passes.verify.reference import Reference

WORK = 1 << 34  # multiply-accumulates that runs with weights put back may take
_WINDOWS = 256  # of a convolution that are looked at


@dataclass(frozen=True)
class Contribution:
    """`share` of the squared error; `error`: without this weight, or (first order) where it is."""

    weight: str
    node: str
    share: float
    error: float


@dataclass(frozen=True)
class Contributions:
    """The largest first. `method`: "put back" or "first order".

    `weights_error`: of all decoded weights in float; the rest of the error is of activations.
    """

    method: str
    weights_error: float | None
    table: tuple[Contribution, ...]
    findings: tuple[Finding, ...] = ()


def contributions(
    original: Model,
    found: Sequence[Pair],
    reference: Reference,
    macs: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Contributions:
    """The table. `macs`: of one run of the original, which decides how it is made."""
    changed = [one for pair in found if (one := _Changed.of(pair)) is not None]
    if not changed:
        return Contributions("put back", 0.0, ())
    runs = WORK // max(macs * (len(changed) + 1), 1)
    try:
        if runs:
            return _put_back(original, changed, reference, list(reference.feeds[:runs]), progress)
        return _first_order(original, changed, reference.feeds[0])
    except CompressError as error:
        note = Finding("layers", Severity.NOTE, "", f"no table of layers: {error}")
        return Contributions("none", None, (), (note,))


@dataclass(frozen=True)
class _Changed:
    """A pair whose numbers differ."""

    pair: Pair
    want: Array
    got: Array

    @staticmethod
    def of(pair: Pair) -> "_Changed | None":
        want, got = pair.original.numbers(), pair.compressed.numbers()
        if want is None or got is None:
            return None
        got = restored(pair, got).astype(want.dtype)
        if got.shape != want.shape or np.array_equal(got, want):
            return None
        return _Changed(pair, want, np.ascontiguousarray(got))


def _put_back(
    original: Model,
    changed: Sequence[_Changed],
    reference: Reference,
    feeds: Sequence[Feed],
    progress: Callable[[int, int], None],
) -> Contributions:
    places = [(one.pair.original.node, one.pair.original.slot) for one in changed]
    model, names = opened(original, places, [one.want for one in changed])
    session = Session(model, reference.threads)
    decoded = {name: one.got for name, one in zip(names, changed, strict=True)}

    def error(given: dict[str, Array]) -> float:
        return reference.error(reference.judged(session.run_all([{**f, **given} for f in feeds])))

    whole = error(decoded)
    rest = []
    for done, (name, one) in enumerate(zip(names, changed, strict=True)):
        rest.append(error({**decoded, name: one.want}))
        progress(done + 1, len(changed))
    gains = [max(whole**2 - without**2, 0.0) for without in rest]
    table = _table(changed, gains, rest)
    return Contributions("put back", whole, table)


def _first_order(original: Model, changed: Sequence[_Changed], feed: Feed) -> Contributions:
    uses = {(u.node, u.slot): u for weight in find_weights(original) for u in weight.uses}
    known: dict[int, tuple[Use, list[Tap]]] = {}
    for at, one in enumerate(changed):
        use = uses.get((one.pair.original.node, one.pair.original.slot))
        where = source(use) if use is not None else None
        if use is not None and where is not None:
            reads = [Tap(use.node, slot) for slot in where.slots]
            made = [Tap(use.node, slot, made=True) for slot in where.made]
            known[at] = use, [*reads, *made]
    taps = list(dict.fromkeys(tap for _, each in known.values() for tap in each))
    _, seen = next(Watch(original, taps).run_all([feed]))
    errors = [_local(one, known.get(at), seen) for at, one in enumerate(changed)]
    return Contributions("first order", None, _table(changed, [e**2 for e in errors], errors))


def _local(
    one: _Changed, known: tuple[Use, list[Tap]] | None, seen: Sequence[dict[Tap, Array]]
) -> float:
    """|x (D - W)| / |x W| over all rows seen; of picked rows |D - W| / |W|."""
    runs = [] if known is None else [v for v in seen if any(tap in v for tap in known[1])]
    if known is None or not runs:
        return float(np.linalg.norm(one.got - one.want) / (np.linalg.norm(one.want) or 1.0))
    use, taps = known
    where = source(use)
    off, matrix = (use.layout.matrix(array) for array in (one.got - one.want, one.want))
    noise = signal = 0.0
    for values in runs:
        rows = where.rows(use, [values.get(tap) for tap in taps], _WINDOWS) if where else ()
        for x in rows:
            noise += float(np.sum((x @ off.transpose(0, 2, 1)) ** 2))
            signal += float(np.sum((x @ matrix.transpose(0, 2, 1)) ** 2))
    return sqrt(noise / signal) if signal else 0.0


def _table(
    changed: Sequence[_Changed], gains: Sequence[float], errors: Sequence[float]
) -> tuple[Contribution, ...]:
    total = sum(gains) or 1.0
    rows = [
        Contribution(one.pair.name, one.pair.compressed.name, gain / total, error)
        for one, gain, error in zip(changed, gains, errors, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.share, row.weight)))
