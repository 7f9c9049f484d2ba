"""Everything that can go wrong, under one root.

    CompressError
    ├── ModelError          LoadError, InvalidError, UnsupportedError
    ├── PipelineError       SyntaxProblem, UnknownPassError, OptionError, OrderError
    ├── PassError           PreconditionError, VerificationError
    ├── CalibrationError
    ├── QualityError
    ├── OutputError
    └── CancelledError

Each carries a hint, which says what to do, and the exit code that the command line ends with.
"""

from typing import Any, ClassVar


class CompressError(Exception):
    """Root of all errors of this library.

    `hint` says what the user can do about it; `where` names the node, weight, option or file.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.where = message, hint, where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class PipelineError(CompressError):
    """The passes asked for cannot be run as written."""

    exit_code = 2


class SyntaxProblem(PipelineError):
    """The text of a pipeline cannot be read; the message holds a caret under the place."""


class UnknownPassError(PipelineError):
    """No pass of that name."""


class OptionError(PipelineError):
    """An option that the pass does not have, or a value out of its bounds."""


class OrderError(PipelineError):
    """Two passes in an order that would undo the first."""


class ModelError(CompressError):
    """The model itself."""

    exit_code = 3


class LoadError(ModelError):
    """A file that is not a model, or whose weights cannot be read."""


class InvalidError(ModelError):
    """A graph that breaks the rules of ONNX, or an edit that would make it do so."""


class TooLongError(InvalidError):
    """A model that does not end a run within the time it may take."""


class UnsupportedError(ModelError):
    """A valid model that cannot be handled."""


class PassError(CompressError):
    """A pass failed."""

    exit_code = 4


class PreconditionError(PassError):
    """A pass was asked for something that it needs more for."""


class VerificationError(PassError):
    """The model after a pass is broken, or no longer does what the pass promised."""


class CalibrationError(CompressError):
    """The calibration data do not fit the model."""

    exit_code = 5


class QualityError(CompressError):
    """The result is worse than the user allows; nothing was written.

    `report`: the Summary of the run, where it got that far.
    """

    exit_code = 6
    report: Any = None


class OutputError(CompressError):
    """The result cannot be written."""

    exit_code = 7


class CancelledError(CompressError):
    """The program that this runs in asked for an end; nothing was written."""

    exit_code = 130
