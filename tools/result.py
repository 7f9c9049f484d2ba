"""What a run gives back: the model, and everything that is known of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from onnx_compress.ir.analysis import Cost
from onnx_compress.ir.runtime import Timing
from onnx_compress.passes import Stage
from onnx_compress.passes.verify import Quality

SCHEMA = 1  # of `Summary.as_dict`


@dataclass(frozen=True)
class Accuracy:
    """Share of labelled samples whose largest output is the right one."""

    before: float
    after: float
    samples: int


@dataclass(frozen=True)
class Summary:
    """All figures of one run.

    `unchanged`: nothing was gained and the output is the input, byte for byte. `error` is None
    where nothing could be judged. `quality` is that of the result as read back. `drawn`: judged on
    drawn inputs, not on real ones.
    """

    passes: str
    target: str
    stages: tuple[Stage, ...]
    bytes_before: int
    bytes_after: int
    cost_before: Cost
    cost_after: Cost
    quality: Quality
    error: float | None
    max_error: float
    drawn: bool
    fitted: int
    judged: int
    timing: Timing | None
    accuracy: Accuracy | None
    unchanged: bool
    seconds: float
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
        """Everything, for JSON."""
        figures = asdict(self)
        figures |= {"schema": SCHEMA, "ratio": self.ratio, "speed": self.speed}
        judged = bool(self.quality.outputs)
        figures["quality"] |= {
            "error": self.quality.error if judged else None,
            "sqnr_db": self.quality.sqnr_db if judged else None,
        }
        return figures


@dataclass(frozen=True)
class Result:
    """`model`: of the kind that was given; the path written where a path and `out` were given."""

    model: Any
    report: Summary
