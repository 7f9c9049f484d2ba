"""Where the error comes from: a table of weights by what they add to it.

    put back       error of all decoded weights, and without each in turn: the original's there
    first order    |x (D - W)| / |x W| of each product, x the original's: no run of the model each

The first runs the original once for each weight, in one session whose weights are inputs, biases
beside them (they may have been corrected); the second is for models for which that takes too long:
it says how large the error is where it is made, not what becomes of it. Both are about weights
alone: what products of bytes lose by rounding their inputs is the rest of the error. Weights that
were changed together with something else, as factors that go from one to the next, lose more in the
original than in the model they are of; those fitted one after the other make up for what the ones
before have lost, so that any of them put back makes it worse. Then there is no table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.opened import Place, opened
from onnx_compress.ir.runtime import Feed, Session
from onnx_compress.ir.runtime.watch import Tap, Watch
from onnx_compress.ir.weights import Use, find_weights
from onnx_compress.ir.weights.effective import Effective
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.pairs import Pair, restored
from onnx_compress.passes.verify.reference import Reference

WORK = 1 << 34  # multiply-accumulates that runs with weights put back may take
_WINDOWS = 256  # of a convolution that are looked at
_TOGETHER = 1.5  # times the error of the model that its weights may make in the original
_LOCAL = 10.0  # the same of one product where it is made
_EXPLAINED = 0.5  # of the squared error, that the weights of a table must add up to
_BIASED = ("Conv", "ConvTranspose", "Gemm")  # third inputs


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
    models: tuple[Model, Model],
    found: Sequence[Pair],
    reference: Reference,
    macs: int,
    error: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Contributions:
    """The table. `models`: the original, the compressed one; `error`: of the latter.

    `macs`: of one run of the original, which decides how it is made.
    """
    original, folded = models[0], (Folded(models[0]), Folded(models[1]))
    changed = [one for pair in found if (one := _Changed.of(pair, folded)) is not None]
    if not changed:
        return Contributions("put back", 0.0, ())
    runs = WORK // max(macs * (len(changed) + 1), 1)
    try:
        if runs:
            feeds = list(reference.feeds[:runs])
            return _put_back(original, changed, reference, feeds, error, progress)
        return _first_order(original, changed, reference.feeds[0], error)
    except CompressError as failure:
        return _none(str(failure))


@dataclass(frozen=True)
class _Stored:
    """An operand of the original, and what the compressed model has in its place."""

    place: Place
    want: Array
    got: Array


@dataclass(frozen=True)
class _Changed:
    """A pair whose numbers differ. `bias`: what is added behind it, where that differs too."""

    pair: Pair
    weight: _Stored
    bias: _Stored | None

    @property
    def parts(self) -> list[_Stored]:
        """The weight and its bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @staticmethod
    def of(pair: Pair, folded: tuple[Folded, Folded]) -> "_Changed | None":
        want, got = pair.original.numbers(), pair.compressed.numbers()
        if want is None or got is None:
            return None
        got = restored(pair, got).astype(want.dtype)
        if got.shape != want.shape or np.array_equal(got, want):
            return None
        weight = _Stored((pair.original.node, pair.original.slot), want, np.ascontiguousarray(got))
        return _Changed(pair, weight, _bias(pair, folded))


def _bias(pair: Pair, folded: tuple[Folded, Folded]) -> _Stored | None:
    places = [_added(one) for one in (pair.original, pair.compressed)]
    if places[0] is None or places[1] is None:
        return None
    arrays = [
        numbers.array(node.inputs[slot])
        for numbers, (node, slot) in zip(folded, (places[0], places[1]), strict=True)
    ]
    want, got = arrays
    if want is None or got is None or want.shape != got.shape or np.array_equal(want, got):
        return None
    return _Stored(places[0], want, np.ascontiguousarray(got.astype(want.dtype)))


def _added(weight: Effective) -> Place | None:
    """Where a constant may be added to what an operator gives."""
    if weight.node.op in _BIASED:
        return (weight.node, 2) if len(weight.node.inputs) > 2 else None
    readers = list(weight.end.uses)
    if weight.picks or len(readers) != 1 or readers[0][0].op != "Add":
        return None
    node, slot = readers[0]
    return node, 1 - slot


def _put_back(
    original: Model,
    changed: Sequence[_Changed],
    reference: Reference,
    feeds: Sequence[Feed],
    most: float,
    progress: Callable[[int, int], None],
) -> Contributions:
    parts = [part for one in changed for part in one.parts]
    model, names = opened(original, [part.place for part in parts], [part.want for part in parts])
    session = Session(model, reference.threads)
    named = {part.place: name for name, part in zip(names, parts, strict=True)}

    def error(back: _Changed | None) -> float:
        wanted = [] if back is None else [part.place for part in back.parts]
        given = {named[p.place]: p.want if p.place in wanted else p.got for p in parts}
        return reference.error(reference.judged(session.run_all([{**f, **given} for f in feeds])))

    whole = error(None)
    if whole > _TOGETHER * most:
        text = f"in the original, the weights make an error of {whole:.3g}, and {most:.3g} here"
        return _none(f"{text}: they were changed together with others", whole)
    rest = []
    for done, one in enumerate(changed):
        rest.append(error(one))
        progress(done + 1, len(changed))
    gains = [max(whole**2 - without**2, 0.0) for without in rest]
    if sum(gains) < _EXPLAINED * whole**2:
        return _none("the weights make up for one another, so that none is to blame", whole)
    return Contributions("put back", whole, _table(changed, gains, rest))


def _none(why: str, error: float | None = None) -> Contributions:
    note = Finding("layers", Severity.NOTE, "", f"no table of layers: {why}")
    return Contributions("none", error, (), (note,))


def _first_order(
    original: Model, changed: Sequence[_Changed], feed: Feed, error: float
) -> Contributions:
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
    if max(errors) > max(1.0, _LOCAL * error):
        text = f"a product loses {max(errors):.3g} where it is made, and the outputs {error:.3g}"
        return _none(f"{text}: weights were changed together with others")
    return Contributions("first order", None, _table(changed, [e**2 for e in errors], errors))


def _local(
    one: _Changed, known: tuple[Use, list[Tap]] | None, seen: Sequence[dict[Tap, Array]]
) -> float:
    """|x (D - W)| / |x W| over all rows seen; of picked rows |D - W| / |W|."""
    want, off = one.weight.want, one.weight.got - one.weight.want
    runs = [] if known is None else [v for v in seen if any(tap in v for tap in known[1])]
    if known is None or not runs:
        return float(np.linalg.norm(off) / (np.linalg.norm(want) or 1.0))
    use, taps = known
    where = source(use)
    off, matrix = (use.layout.matrix(array) for array in (off, want))
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
