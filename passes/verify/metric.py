"""Metric: the number that a model is there for, such as its accuracy. Higher is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.errors import CalibrationError, CompressError
from onnx_compress.ir.runtime import Feed, Runner
from onnx_compress.ir.runtime.like_runtime import LikeRuntime


@dataclass(frozen=True)
class Metric:
    """`samples`: how many it is measured on, where that is known."""

    name: str
    measure: Callable[[Runner], float]
    samples: int | None = None

    def of(self, session: Runner) -> float:
        """The number for one model. Raises CalibrationError where it is none."""
        try:
            score = float(self.measure(session))
        except (CompressError, MemoryError):
            raise
        except Exception as error:  # it is the user's
            text = f"it failed: {type(error).__name__}: {error}"
            raise CalibrationError(text, "try it on the original model", self.name) from error
        if not np.isfinite(score):
            raise CalibrationError(f"it gives {score}", "it must give a number", self.name)
        return score


def top1(feeds: Sequence[Feed], labels: Sequence[int]) -> Metric:
    """Share of samples whose first output is largest at the label."""

    def measure(session: Runner) -> float:
        outputs = session.run_all(feeds)
        pairs = zip(outputs, labels, strict=True)
        return sum(int(np.asarray(o[0]).reshape(-1).argmax()) == x for o, x in pairs) / len(labels)

    return Metric("accuracy", measure, len(labels))


def measured(function: Callable[[LikeRuntime], float]) -> Metric:
    """What a function of the user's gives for a session, which is used like the runtime's own."""
    name = getattr(function, "__name__", "metric")
    return Metric(name, lambda session: function(LikeRuntime(session)))
