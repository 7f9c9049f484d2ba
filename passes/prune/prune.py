"""prune: channels that matter least are taken out, or single weights become zero.

    channels, macs   W1 [64, C, 3, 3], W2 [O, 64, 3, 3]  ->  W1 [48, C, 3, 3], W2 [O, 48, 3, 3]
    sparsity         W  ->  W * mask       mask: all but the share of smallest magnitude

Channels, hidden units, feed-forward neurons, attention heads: everything that stands for one is
cut, in the whole graph. With real inputs those go that the others can make up for best, and all
weights are refitted, front to back. Zeros in a dense tensor save nothing by themselves, neither in
the file nor in time (ONNX Runtime has no sparse kernels), and the report says so.
"""

from dataclasses import dataclass
from typing import ClassVar

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.prune.mask import prune_weights
from onnx_compress.passes.prune.structure import Request, prune_structure

_SHARES = (0.5, 0.3, 0.15)  # of channels, that a pass without numbers tries


@dataclass(frozen=True)
class Prune(Pass):
    """Take out what matters least: whole channels, or single weights."""

    name: ClassVar[str] = "prune"
    example: ClassVar[str] = "prune(channels=0.3)"
    channels: float | None = option(None, "share of channels to take out", low=0.0, high=0.95)
    macs: float | None = option(
        None, "share of multiply-accumulates to save by taking out channels", low=0.0, high=0.95
    )
    sparsity: float | None = option(
        None, "share of each layer's weights to set to zero", low=0.0, high=0.99
    )

    def __post_init__(self) -> None:
        """At most one number. Raises OptionError."""
        super().__post_init__()
        given = [
            name for name in ("channels", "macs", "sparsity") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            hint = "prune twice: prune(channels=0.3),prune(sparsity=0.5)"
            raise OptionError(f"{given[0]} and {given[1]} were given", hint, str(self))

    @property
    def phase(self) -> Phase:
        """Masks come after what changes the structure."""
        return Phase.STRUCTURE if self.sparsity is None else Phase.MASK

    @property
    def weight_error(self) -> float | None:
        """At most that of weights of equal size; of channels, whole rows go."""
        return 1.0 if self.sparsity is None else self.sparsity**0.5

    @property
    def obeyed(self) -> bool:
        """Whether a number was given."""
        return (self.channels, self.macs, self.sparsity) != (None, None, None)

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """Without a number: several, with real inputs to judge them on."""
        if self.obeyed or not context.calibrated:
            return (self,)
        return tuple(Prune(channels=share) for share in _SHARES)

    def run(self, model: Model, context: Context) -> Report:
        """Prune; without a number nothing is done."""
        if self.sparsity is not None:
            return prune_weights(model, context, self.sparsity)
        if self.macs is not None:
            return prune_structure(model, context, Request(self.macs, "macs"))
        if self.channels is not None:
            return prune_structure(model, context, Request(self.channels, "channels"))
        needed = "which channels may go cannot be told without real inputs: give --calib"
        return Report(skipped=(Entry("prune", needed),), summary="not run: needs --calib")
