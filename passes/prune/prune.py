"""prune: channels that matter least are taken out, or single weights become zero.

    channels, macs, speed    W1 [64, C, 3, 3], W2 [O, 64, 3, 3]  ->  W1 [48, ...], W2 [O, 48, ...]
    sparsity                 W  ->  V * mask       stored without its zeros where that is smaller

Channels, hidden units, feed-forward neurons, attention heads: everything that stands for one is
cut, in the whole graph. With real inputs those go that the others can make up for best, and all
weights are refitted, front to back. Single weights that become zero make a file smaller, but no
model faster (ONNX Runtime has no sparse kernels), and the report says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import ClassVar

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, Trial, option
from onnx_compress.passes.prune.mask import Zeros, prune_weights
from onnx_compress.passes.prune.scores import HALVED, PATTERNS, SCORES
from onnx_compress.passes.prune.search import promising
from onnx_compress.passes.prune.structure import Request, prune_structure

_NUMBERS = ("channels", "macs", "speed", "sparsity")
_SHARES = (0.5, 0.3, 0.15, 0.07)  # of channels, tried where another metric decides


@dataclass(frozen=True)
class Prune(Pass):
    """Take out what matters least: whole channels, or single weights."""

    name: ClassVar[str] = "prune"
    example: ClassVar[str] = "prune(channels=0.3)"
    channels: float | None = option(None, "share of channels to take out", low=0.0, high=0.95)
    macs: float | None = option(
        None, "share of multiply-accumulates to save by taking out channels", low=0.0, high=0.95
    )
    speed: float | None = option(
        None, "times as fast by the target's figures, by taking out channels", low=1.0, high=20.0
    )
    sparsity: float | None = option(None, "share of the weights to set to zero", low=0.0, high=0.99)
    pattern: str | None = option(
        None,
        "of the zeros: anywhere, two of four or four of eight inputs, or in columns of 16 rows",
        choices=PATTERNS,
    )
    score: str | None = option(
        None, "by which weights become zero; obs with real inputs, else magnitude", choices=SCORES
    )
    allocation: str = option(
        "layer",
        "layer: the same share of each layer; global: one threshold for all of them",
        choices=("layer", "global"),
    )
    refit: bool = option(True, "with real inputs: weights that stay make up for those that go")

    def __post_init__(self) -> None:
        """At most one number. Raises OptionError."""
        super().__post_init__()
        given = [name for name in _NUMBERS if getattr(self, name) is not None]
        if len(given) > 1:
            hint = "prune twice: prune(channels=0.3),prune(sparsity=0.5)"
            raise OptionError(f"{given[0]} and {given[1]} were given", hint, str(self))
        self._check_zeros()

    def _check_zeros(self) -> None:
        if self.pattern in HALVED and self.sparsity not in (None, 0.5):
            hint = "leave sparsity out, or take pattern='unstructured'"
            raise OptionError(f"{self.pattern} is a sparsity of 0.5", hint, str(self))
        if self.pattern in HALVED and self.allocation == "global":
            hint = "it fits unstructured and 16x1"
            raise OptionError(f"{self.pattern} is the same in every layer", hint, str(self))
        if self._zeros is None:
            names = [f.name for f in fields(self) if f.name not in _NUMBERS]
            odd = [name for name in names if getattr(self, name) != getattr(type(self), name)]
            if odd:
                hint = "give a sparsity with it: prune(sparsity=0.5)"
                raise OptionError(f"{odd[0]} is of single weights", hint, str(self))

    @property
    def _zeros(self) -> float | None:
        """The share of single weights to set to zero."""
        return 0.5 if self.sparsity is None and self.pattern in HALVED else self.sparsity

    @property
    def phase(self) -> Phase:
        """Masks come after what changes the structure."""
        return Phase.STRUCTURE if self._zeros is None else Phase.MASK

    @property
    def weight_error(self) -> float | None:
        """Without a refit at most that of weights of equal size; of channels, whole rows go."""
        return 1.0 if self._zeros is None else self._zeros**0.5

    @property
    def obeyed(self) -> bool:
        """Whether a number was given."""
        return any(
            number is not None for number in (self.channels, self.macs, self.speed, self._zeros)
        )

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """Without a number: several, with real inputs to judge them on."""
        if self.obeyed or not context.calibrated:
            return (self,)
        return tuple(Prune(channels=share) for share in _SHARES)

    def search(
        self, model: Model, context: Context, allowed: float, tried: Sequence[Trial]
    ) -> Iterable[Pass]:
        """Shares that should bring the error which is allowed, by what those before brought."""
        if self.obeyed or not (context.calibrated and isfinite(allowed)):
            yield from super().search(model, context, allowed, tried)
            return
        for share in promising(model, context, allowed, tried):
            yield Prune(channels=share)

    def run(self, model: Model, context: Context) -> Report:
        """Prune; without a number nothing is done."""
        if self._zeros is not None:
            pattern = self.pattern or "unstructured"
            everywhere = self.allocation == "global"
            asked = Zeros(self._zeros, pattern, self.score, everywhere, self.refit)
            return prune_weights(model, context, asked)
        if self.speed is not None:
            return prune_structure(model, context, Request(1 - 1 / self.speed, "time"))
        if self.macs is not None:
            return prune_structure(model, context, Request(self.macs, "macs"))
        if self.channels is not None:
            return prune_structure(model, context, Request(self.channels, "channels"))
        needed = "which channels may go cannot be told without real inputs: give --calib"
        return Report(skipped=(Entry("prune", needed),), summary="not run: needs --calib")
