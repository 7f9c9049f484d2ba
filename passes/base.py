"""Pass: one transformation, as a frozen dataclass whose fields are its options.

@dataclass(frozen=True)
class Prune(Pass):
    name: ClassVar[str] = "prune"
    sparsity: float | None = option(None, "share of weights to set to zero", low=0, high=0.99)

    def run(self, model, context) -> Report: ...
"""

import dataclasses
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from onnx_compress.ir.errors import OptionError, VerificationError
from onnx_compress.ir.graph import Model, Value, clone, invariants, kinds
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.weights import Inventory, Skipped, Weight, find_weights
from onnx_compress.passes.samples import draw
from onnx_compress.passes.target import Target, host, load

EXCLUDED = "excluded by name"


class Phase(IntEnum):
    """Where in a pipeline a pass stands."""

    CLEAN = 0
    STRUCTURE = 1
    FACTOR = 2
    MASK = 3
    ENCODE = 4
    WRAP = 5


@dataclass(frozen=True)
class Entry:
    """One line of a report: what was done to `subject`, or why it was left alone."""

    subject: str
    text: str


@dataclass(frozen=True)
class Report:
    """What a pass did. `summary` is one line; without changes the model must be as it was."""

    changes: tuple[Entry, ...] = ()
    skipped: tuple[Entry, ...] = ()
    summary: str = ""
    notes: tuple[str, ...] = ()

    @property
    def modified(self) -> bool:
        """Whether the model was changed."""
        return bool(self.changes)


@dataclass(frozen=True)
class Event:
    """Something a caller may want to show: `kind` is "stage", "progress" or "warning"."""

    kind: str
    text: str
    done: int = 0
    total: int = 0


def ignore(_: Event) -> None:
    """The listener that does nothing."""


@dataclass(frozen=True)
class Context:
    """What a pass may look at besides the model.

    `sample`: one input, for the shapes of a run. `fit`: real inputs to fit on; empty if the user
    gave none. `calibrated`: whether there are any. `exclude`: names of weights, or of nodes that
    read them, which passes leave alone; may hold *, ? and []. `only`: the one weight that may be
    changed. `cache`: a folder for statistics, see `statistics.collect`. `matched`: the patterns
    that were of use so far. `memo`: what was found out about the model once, for all settings that
    one pass tries on copies of it, values and nodes of it by their places; None for any one run.
    """

    target: Target
    sample: Feed
    fit: Sequence[Feed] = ()
    seed: int = 0
    emit: Callable[[Event], None] = ignore
    exclude: tuple[str, ...] = ()
    only: Value | None = None
    cache: Path | None = None
    matched: set[str] = field(default_factory=set, compare=False)
    memo: dict[Any, Any] | None = field(default=None, compare=False)

    @property
    def calibrated(self) -> bool:
        """Whether the user gave data."""
        return bool(self.fit)

    def weights(self, model: Model) -> Inventory:
        """The weights that a pass may change; those that the user excludes are skipped."""
        found = find_weights(model)
        left = set(self.excluded(model, found))
        if self.only is not None:
            left |= {weight for weight in found if weight.value is not self.only}
        if not left:
            return found
        skipped = tuple(Skipped(w.name, EXCLUDED) for w in found if w in left)
        kept = tuple(weight for weight in found if weight not in left)
        return Inventory(kept, (*found.skipped, *skipped))

    def excluded(self, model: Model, found: Inventory | None = None) -> list[Weight]:
        """The weights that the user excludes."""
        if not self.exclude:
            return []
        left: dict[Weight, None] = {}
        for weight in found or find_weights(model):
            fitting = [pattern for pattern in self.exclude if matches(weight, pattern)]
            self.matched.update(fitting)
            if fitting:
                left[weight] = None
        return list(left)

    def progress(self, done: int, total: int, what: str) -> None:
        """Tell how far a pass is, in what it counts: weights, layers."""
        self.emit(Event("progress", what, done, total))


def matches(weight: Weight, pattern: str) -> bool:
    """Whether a pattern is the name of a weight, or of a node that reads it."""
    called = (weight.name, *(use.node.proto.name for use in weight.uses))
    return any(name and (name == pattern or fnmatchcase(name, pattern)) for name in called)


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """A field of a pass: its default, what it means, and what values it takes."""
    return field(
        default=default,
        metadata={"help": help, "low": low, "high": high, "choices": choices},
    )


@dataclass(frozen=True)
class Trial:
    """A setting that was tried, the error that it had, and whether it may be taken."""

    setting: "Pass"
    error: float
    fits: bool = False


@dataclass(frozen=True)
class Pass:
    """One transformation of a model.

    `exact`: the outputs stay the same up to rounding. `idempotent`: run on its own result, it
    changes nothing. `adds_cost`: the result may take more bytes or operations. `example`: how it
    may be written. `onnx_compress.testing` holds it to these.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False
    adds_cost: ClassVar[bool] = False
    example: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the options. Raises OptionError."""
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            if entry.metadata:
                value = getattr(self, entry.name)
                if value is not None:
                    _check(f"{self.name}({entry.name})", value, hints[entry.name], entry.metadata)

    @property
    def phase(self) -> Phase:
        """Where it stands, as configured."""
        raise NotImplementedError

    def settings(self, context: Context) -> tuple["Pass", ...]:
        """The configurations to choose from, the strongest first.

        A pass whose numbers are all given has one, itself. Of several the first within the error
        allowed is taken; if none is, the one of least error if the pass is `obeyed`.
        """
        return (self,)

    def search(
        self, model: Model, context: Context, allowed: float, tried: Sequence["Trial"]
    ) -> Iterable["Pass"]:
        """What is tried on copies of `model`, one after the other.

        By default its settings, until one fits. `allowed`: the error up to which one may go,
        infinite where another metric decides. `tried` grows while this is read, so that what comes
        next may follow from it. Of those that fit, the smallest result is taken.
        """
        for setting in self.settings(context):
            yield setting
            if tried and tried[-1].fits:
                return

    @property
    def obeyed(self) -> bool:
        """Whether the user gave a number, which then holds whatever the error."""
        return True

    @property
    def weight_error(self) -> float | None:
        """Relative error of a weight (L2) that it may cause; None where that cannot be told."""
        return None

    def run(self, model: Model, context: Context) -> Report:
        """Change the model. It may be thrown away afterwards, so it need not be left intact."""
        raise NotImplementedError

    def __call__(
        self,
        model: Any,
        *,
        sample: Feed | None = None,
        fit: Sequence[Feed] = (),
        target: Target | str | None = None,
        seed: int = 0,
        exclude: Sequence[str] = (),
    ) -> Any:
        """This pass alone, on any kind of model; gives one of the same kind.

        For other toolchains, which do their own judging: the result is sound, loads, and has the
        interface it had, but is not compared with the original; `compress` does that. `sample`:
        one input, drawn if there is none; the rest as in Context, by default for this processor.
        Raises OptionError for a pass without numbers, which only `compress` can choose for.
        """
        if not (self.exact or self.obeyed):
            hint = "give it numbers, or use compress(), which chooses them by the error"
            raise OptionError("it has no numbers", hint, str(self))
        original, _ = kinds.read(model)
        if sample is None:
            (sample,) = fit[:1] or draw(original, open_session(original), 1, seed)
        kind = load(target) if isinstance(target, str) else target or host()
        patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        context = Context(kind, sample, fit, seed, exclude=patterns)
        result = clone(original)
        report = self.settings(context)[0].run(result, context)
        if report.modified:
            result.unlist()
            invariants.check(result)
            if result.interface() != original.interface():
                raise VerificationError("inputs or outputs changed", where=str(self))
            open_session(result)
        return kinds.like(model, result, None)

    def __str__(self) -> str:
        """As written in a pipeline."""
        given = [
            f"{entry.name}={_text(getattr(self, entry.name))}"
            for entry in dataclasses.fields(self)
            if getattr(self, entry.name) != entry.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name


def _text(value: Any) -> str:
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def _check(where: str, value: Any, hint: Any, rules: Any) -> None:
    kinds = [kind for kind in _kinds(hint) if kind is not type(None)]
    shown = reprlib.repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "that"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if type(value) not in kinds and not (whole and float in kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise OptionError(f"takes {names}, not {shown}", "see the README for its options", where)
    low, high, choices = rules["low"], rules["high"], rules["choices"]
    if choices and not any(value == one and type(value) is type(one) for one in choices):
        allowed = ", ".join(str(choice) for choice in choices)
        raise OptionError(f"{shown} is not one of {allowed}", "choose one of them", where)
    outside = (low is not None and not value >= low) or (high is not None and not value <= high)
    if outside:
        raise OptionError(f"{shown} is out of bounds", f"between {low} and {high}", where)


def _kinds(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(
        typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else (hint,))
    )
