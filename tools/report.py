"""The JSON report: every figure of a run, as docs/report.md and report.schema.json describe it.

Its `exclude` may be given to the next run with `--exclude-from`.
"""

import glob
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_compress.ir.analysis import Cost
from onnx_compress.ir.errors import OptionError
from onnx_compress.passes import Entry, Stage
from onnx_compress.passes.verify import Quality

if TYPE_CHECKING:
    from onnx_compress.result import Layer, Summary

SCHEMA = 2
_MARGIN = 0.9  # of the error allowed: squares of errors add up only nearly


def as_dict(report: "Summary") -> dict[str, Any]:
    """Plain numbers, texts, lists and dictionaries; what is not known is None."""
    layers = [
        {"weight": layer.weight, "error": number(layer.error), "sqnr_db": layer.sqnr_db}
        for layer in report.layers
    ]
    suggested = worst(report.layers, report.max_error) if report.max_error is not None else []
    return {
        "schema": SCHEMA,
        "versions": {"onnx-compress": version("onnx-compress"), **report.versions},
        "verdict": _verdict(report),
        "refused": report.refused or None,
        "passes": report.passes,
        "target": report.target,
        "seed": report.seed,
        "size": {
            "before": report.bytes_before,
            "after": report.bytes_after,
            "ratio": report.ratio,
        },
        "quality": {
            **_quality(report.quality, report.error),
            "max_error": number(report.max_error),
            "samples": {
                "drawn": report.drawn,
                "fitted": report.fitted,
                "judged": report.judged,
            },
        },
        "metric": _metric(report),
        "speed": _speed(report),
        "cost": {"before": _cost(report.cost_before), "after": _cost(report.cost_after)},
        "stages": [_stage(stage) for stage in report.stages],
        "layers": layers,
        "exclude": [*report.exclude, *suggested],
        "warnings": list(report.warnings),
        "seconds": report.seconds,
    }


def number(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def finite(figures: Any) -> Any:
    """The same without infinity and NaN, at any depth."""
    if isinstance(figures, dict):
        return {key: finite(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [finite(value) for value in figures]
    return number(figures) if isinstance(figures, float) else figures


def text(figures: dict[str, Any]) -> str:
    """As written to a file."""
    return json.dumps(figures, indent=1, allow_nan=False) + "\n"


def excluded(path: Path) -> list[str]:
    """What a report asks to leave alone. Raises OptionError."""
    hint = 'give a report of --report, made with --layers, or one with names under "exclude"'
    try:
        names = json.loads(path.read_text("utf-8"))["exclude"]
    except OSError as error:
        raise OptionError(error.strerror or "cannot be read", hint, str(path)) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OptionError("it is no report", hint, str(path)) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OptionError('"exclude" is no list of names', hint, str(path))
    if not names:
        raise OptionError("it names nothing to leave alone", hint, str(path))
    return names


def worst(layers: "tuple[Layer, ...]", max_error: float) -> list[str]:
    """The fewest weights whose exclusion should bring the error down to `max_error`.

    Errors are taken to add as squares.
    """
    found: list[str] = []
    if sum(layer.error**2 for layer in layers) <= max_error**2:
        return found
    for at, layer in enumerate(layers):
        if sum(rest.error**2 for rest in layers[at:]) <= (_MARGIN * max_error) ** 2:
            break
        found.append(glob.escape(layer.weight))
    return found


def _verdict(report: "Summary") -> str:
    if report.planned or report.refused:
        return "planned" if report.planned else "refused"
    return "unchanged" if report.unchanged else "compressed"


def _quality(quality: Quality | None, error: float | None) -> dict[str, Any]:
    outputs = quality.outputs if quality else ()
    return {
        "error": number(error),
        "sqnr_db": quality.sqnr_db if quality and outputs else None,
        "outputs": [
            {"name": output.name, "error": number(output.error), "sqnr_db": output.sqnr_db}
            for output in outputs
        ],
    }


def _metric(report: "Summary") -> dict[str, Any] | None:
    metric = report.metric
    if metric is None:
        return None
    return {
        "name": metric.name,
        "before": metric.before,
        "after": metric.after,
        "samples": metric.samples,
        "max_drop": number(report.max_drop),
    }


def _speed(report: "Summary") -> dict[str, Any]:
    timing = report.timing
    return {
        "estimated": report.estimated_speed,
        "measured": report.speed,
        "quartiles": list(timing.spread[1]) if timing else None,
        "milliseconds": list(timing.milliseconds) if timing else None,
    }


def _cost(cost: Cost) -> dict[str, int]:
    return {
        "parameters": cost.parameters,
        "weight_bytes": cost.weight_bytes,
        "macs": cost.macs,
        "loaded_bytes": cost.loaded_bytes,
        "activation_bytes": cost.activation_bytes,
        "working_bytes": cost.working_bytes,
        "unknown_shapes": cost.unknown,
    }


def _stage(stage: Stage) -> dict[str, Any]:
    def entries(found: tuple[Entry, ...]) -> list[dict[str, str]]:
        return [{"subject": entry.subject, "text": entry.text} for entry in found]

    return {
        "pass": stage.name,
        "summary": stage.report.summary,
        "bytes_before": stage.bytes_before,
        "bytes_after": stage.bytes_after,
        **_quality(stage.quality, stage.error),
        "seconds": stage.seconds,
        "failure": stage.failure or None,
        "changes": entries(stage.report.changes),
        "skipped": entries(stage.report.skipped),
        "notes": list(stage.report.notes),
    }
