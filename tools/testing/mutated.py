"""check_mutations(): a pass does the same to a model however it is written."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto, load
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Session
from onnx_compress.passes import Pass
from onnx_compress.testing.checks import BOUND, EXACT, Failed
from onnx_compress.testing.feeds import Feed, feed_of
from onnx_compress.testing.mutations import MUTATIONS, saved_externally
from onnx_compress.testing.outputs import Yardstick, compare, resolution
from onnx_compress.testing.regression import regression
from onnx_compress.testing.trial import PassLike, Trial, tried

OUTSIDE = saved_externally.__name__  # one more way, for passes alone: functions see no folder
_ROUNDING, _RARE = 1e-4, 0.02  # of the largest number; share of numbers
Stored = tuple[str, tuple[int, ...], bytes]  # of numbers: their type, their shape, themselves
# every weight stays one stored tensor of the same bytes and uses, so a pass must choose alike
ALIKE = frozenset(
    {
        "rename_all",
        "unicode_names",
        "reorder_nodes",
        "identity_inserted",
        "dead_nodes",
        "custom_domain_node",
        "as_constant_nodes",
        "as_inputs",
        "behind_identity",
        "other_opset",
        OUTSIDE,
    }
)


def check_mutations(
    pass_: PassLike,
    model: ModelProto,
    mutations: Iterable[str] = (*MUTATIONS, OUTSIDE),
    seed: int = 0,
    tolerance: float | None = None,
) -> list[str]:
    """Run a pass on mutations of a model; results must give what that of the model gives.

    Where no weight is stored otherwise (ALIKE), a lossy pass must also do the same to as many
    weights and store the same numbers, but for the rounding of the activations they are fitted to.
    `mutations`: names of MUTATIONS, or "saved_externally". `tolerance` as for `check_pass`. Gives
    the names of those that had something to write differently. Raises Failed, and whatever the
    pass raises.
    """
    given = feed_of(from_proto(model), size=2)  # equal data for all, whatever is drawn for whom
    plain = tried(pass_, model, [given])
    allowed = tolerance
    if allowed is None:
        allowed = EXACT if plain.exact else getattr(pass_, "weight_error", None) or BOUND
    feed = feed_of(from_proto(model), "normal", 2, seed)
    yardstick = _Steady(plain, allowed)
    done = []
    for name in mutations:
        rng = np.random.default_rng(seed)
        mutated = model if name == OUTSIDE else MUTATIONS[name](model, rng)
        if mutated is None or (name == OUTSIDE and not isinstance(pass_, Pass)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                read = load(saved_externally(model, Path(folder))) if name == OUTSIDE else None
                trial = tried(pass_, mutated, [given], read)
                what = _otherwise(plain, trial, feed, yardstick)
            except Exception as error:
                error.add_note(f"in the mutation {name}\n\n{regression(pass_, mutated)}")
                raise
        if not what and name in ALIKE and not plain.exact:
            what = _decided_otherwise(plain, trial)
        if what:
            text = f"mutation {name}: {what}\n\n{regression(pass_, mutated)}"
            raise Failed("check_mutations", text)
        done.append(name)
    return done


class _Steady:
    """What random changes do to an output of a result, through its floats or the original's.

    Both count: of what a pass made codes of, the result may store no float that could be changed.
    """

    def __init__(self, plain: Trial, size: float) -> None:
        self._plain = plain
        self._changed = Yardstick(plain.changed, size, optimize=True)
        self._original = Yardstick(plain.original, size, optimize=True)

    def __call__(self, feed: Feed, at: int) -> Iterator[Any]:
        """The output of the result, changed in these ways."""
        was, now = (
            np.asarray(self._plain.session(which, True).call(feed)[at])
            for which in ("original", "changed")
        )
        for changed, found in zip(self._changed(feed, at), self._original(feed, at), strict=True):
            yield changed
            other = np.asarray(found)
            if other.shape != was.shape or was.shape != now.shape:
                continue
            with np.errstate(all="ignore"):
                moved = now + (other - was) if now.dtype.kind == "f" else other
            yield np.where(other == was, now, moved)


def _otherwise(plain: Trial, trial: Trial, feed: Feed, yardstick: _Steady) -> str:
    """What is wrong with the outputs; "" if nothing is."""
    expected, found = plain.session("changed", True).call(feed), Session(trial.changed).call(feed)
    coarse = resolution(plain.model)
    for at, info in enumerate(plain.model.graph.output):
        what = compare(expected[at], found[at], partial(yardstick, feed, at), coarse)
        if what:
            return f"{info.name}: {what}"
    return ""


def _decided_otherwise(plain: Trial, trial: Trial) -> str:
    """What was decided or computed otherwise about the weights; "" if nothing was."""
    one, other = (
        Counter(entry.text for entry in found.report.changes) if found.report else Counter()
        for found in (plain, trial)
    )
    if one.total() != other.total():
        return f"{other.total()} changes where {one.total()} were"
    if one != other:
        return f"{', '.join(other - one)} where {', '.join(one - other)} was"
    made, remade = _made(plain), _made(trial)
    return "" if as_good_as(made - remade, remade - made) else "other numbers are stored"


def as_good_as(one: "Counter[Stored]", other: "Counter[Stored]") -> bool:
    """Whether tensors differ in their last bits alone, but for few numbers.

    The runtime fuses nodes differently as a model is written, and so sums in another order: what
    is fitted to activations differs by their rounding, and rarely a code for which it decides.
    """
    left = list(other.elements())
    for dtype, shape, data in one.elements():
        array = np.frombuffer(data, dtype).astype(np.float64)
        near = np.abs(array).max(initial=0) * _ROUNDING
        rare = max(1, int(_RARE * array.size))
        for at, (kind, size, there) in enumerate(left):
            if (kind, size) == (dtype, shape):
                gap = np.abs(array - np.frombuffer(there, kind).astype(np.float64))
                if np.count_nonzero(gap > near) <= rare:
                    del left[at]
                    break
        else:
            return False
    return not left


def _made(trial: Trial) -> "Counter[Stored]":
    """Stored tensors of the result that the model given had not."""
    before, after = (Counter(_stored(model)) for model in (trial.original, trial.changed))
    return after - before


def _stored(model: Model) -> Iterable[Stored]:
    for graph in model.graphs():
        for value, _ in model.stored(graph):
            array = model.constant(value)
            if array is not None and array.dtype.kind != "O":
                yield array.dtype.name, array.shape, array.tobytes()
