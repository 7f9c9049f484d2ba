"""The JSON report of verify, as docs/verify.md and verification.schema.json describe it."""

from typing import TYPE_CHECKING, Any

from onnx_compress.passes.verify.agreement import Agreement
from onnx_compress.passes.verify.contributions import Contributions
from onnx_compress.passes.verify.executed import (
    EXACT,
    SATURATED,
    UNKNOWN,
    WITHIN,
    WRONG,
    Executed,
)
from onnx_compress.passes.verify.file import FileCheck
from onnx_compress.passes.verify.stored import StoredWeights
from onnx_compress.passes.verify.whole import WholeModel
from onnx_compress.report import finite, number

if TYPE_CHECKING:
    from onnx_compress.verification import Verification

SCHEMA = 1


def as_dict(found: "Verification") -> dict[str, Any]:
    """Plain numbers, texts, lists and dictionaries; what is not known is None."""
    levels = found.levels
    costs = levels.costs if levels else None
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": found.versions,
        "verdict": found.verdict,
        "findings": [
            {
                "level": one.level,
                "severity": str(one.severity),
                "where": one.where,
                "text": one.text,
            }
            for one in found.findings
        ],
        "file": _file(levels.file) if levels else None,
        "memory": [one.working_bytes for one in costs] if costs else None,
        "stored": _stored(levels.stored) if levels else None,
        "executed": _executed(levels.executed) if levels and levels.executed else None,
        "whole": _whole(levels.whole) if levels and levels.whole else None,
        "layers": _layers(levels.layers) if levels and levels.layers else None,
        "max_error": number(found.max_error),
        "samples": {"drawn": found.drawn, "judged": found.samples},
        "unjudged": [{"output": name, "why": why} for name, why in found.unjudged.items()],
        "seconds": found.seconds,
    }
    out: dict[str, Any] = finite(figures)
    return out


def _file(found: FileCheck) -> dict[str, Any]:
    return {
        "bytes": list(found.bytes),
        "opset": list(found.opset),
        "written": dict(sorted(found.written.items())),
        "ran": dict(sorted(found.ran.items())),
        "fused": dict(sorted(found.fused.items())),
        "decoded_every_run": found.survived,
    }


def _stored(found: StoredWeights) -> dict[str, Any]:
    return {
        "digests": found.digests,
        "changed": list(found.changed),
        "unmatched": list(found.unmatched),
        "weights": [
            {
                "weight": one.weight,
                "node": one.node,
                "operator": one.operator,
                "error": one.error,
                "steps": one.steps,
            }
            for one in found.weights
        ],
    }


def _executed(found: Executed) -> dict[str, Any]:
    return {
        "exact": found.count(EXACT),
        "within": found.count(WITHIN),
        "saturated": found.count(SATURATED),
        "wrong": found.count(WRONG),
        "unknown": found.count(UNKNOWN),
        "decoded_at_load": found.decoded,
        "nodes": [
            {"node": one.node, "operator": one.operator, "result": one.result, "text": one.text}
            for one in found.nodes
        ],
    }


def _whole(found: WholeModel) -> dict[str, Any]:
    return {
        "error": found.error,
        "same_bits": found.same_bits,
        "runs": [
            {
                "optimized": run.setting.optimized,
                "threads": run.setting.threads,
                "error": run.error,
                "outputs": [_output(one) for one in run.outputs],
            }
            for run in found.runs
        ],
    }


def _output(one: Agreement) -> dict[str, Any]:
    return {
        "name": one.name,
        "error": one.quality.error,
        "relative": one.relative,
        "sqnr_db": one.quality.sqnr_db,
        "cosine": one.cosine,
        "argmax": one.argmax,
    }


def _layers(found: Contributions) -> dict[str, Any]:
    return {
        "method": found.method,
        "weights_error": found.weights_error,
        "table": [
            {"weight": one.weight, "node": one.node, "share": one.share, "error": one.error}
            for one in found.table
        ],
    }
