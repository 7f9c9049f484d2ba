"""What a run gives back: the model, and everything that is known of it."""

from dataclasses import dataclass, field
from typing import Any

from onnx_compress.ir.analysis import Cost
from onnx_compress.ir.runtime import Timing
from onnx_compress.passes import Stage
from onnx_compress.passes.verify import Quality
from onnx_compress.report import as_dict


@dataclass(frozen=True)
class Score:
    """A metric before and after. `samples`: how many it was measured on, where that is known."""

    name: str
    before: float
    after: float
    samples: int | None


@dataclass(frozen=True)
class Layer:
    """What one weight does to the outputs when it alone is compressed."""

    weight: str
    error: float
    sqnr_db: float


@dataclass(frozen=True)
class Summary:
    """All figures of one run.

    `planned`: nothing was judged or written, sizes are those of the strongest settings.
    `refused`: why nothing was written. `unchanged`: nothing was gained and the output is the
    input, byte for byte. `error` is None where nothing could be judged. `quality` is that of the
    result as read back, None where it was not judged. `drawn`: judged on drawn inputs, not on real
    ones. `estimated_speed`: by the target's figures, not measured. `layers`: the worst first; empty
    unless asked for.
    """

    passes: str
    target: str
    stages: tuple[Stage, ...]
    bytes_before: int
    bytes_after: int
    cost_before: Cost
    cost_after: Cost
    estimated_speed: float
    drawn: bool
    fitted: int
    judged: int
    max_error: float | None
    max_drop: float | None = None
    exclude: tuple[str, ...] = ()
    seed: int = 0
    quality: Quality | None = None
    error: float | None = None
    timing: Timing | None = None
    metric: Score | None = None
    layers: tuple[Layer, ...] = ()
    planned: bool = False
    refused: str = ""
    unchanged: bool = False
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / max(self.bytes_after, 1)

    @property
    def speed(self) -> float | None:
        """How many times faster a run is; None if it was not timed."""
        return self.timing.ratio[1] if self.timing else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: see docs/report.md."""
        return as_dict(self)


@dataclass(frozen=True)
class Result:
    """`model`: of the kind that was given; the path written where a path and `out` were given."""

    model: Any
    report: Summary
