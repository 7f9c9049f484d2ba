"""Metric: the number that a model is there for, such as its accuracy. Higher is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, CancelledError, TooLongError
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
        except (CalibrationError, CancelledError, TooLongError, MemoryError):
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
        pairs = zip(session.run_all(feeds), labels, strict=True)
        return sum(_class(outputs[0]) == label for outputs, label in pairs) / len(labels)

    return Metric("accuracy", measure, len(labels))


def _class(output: Any) -> int:
    scores = np.asarray(output)
    if scores.ndim > 1 and scores.shape[0] != 1:
        what = f"the first output has {scores.shape[0]} rows for one label"
        raise CalibrationError(what, "give samples of one row, or a metric from Python", "accuracy")
    return int(scores.reshape(-1).argmax())


def measured(function: Callable[[LikeRuntime], float]) -> Metric:
    """What a function of the user's gives for a session, which is used like the runtime's own."""
    name = getattr(function, "__name__", "metric")
    return Metric(name, lambda session: function(LikeRuntime(session)))
