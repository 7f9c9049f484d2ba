"""Checks of one trial, each usable alone. They raise Failed, which says what is wrong."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnx_compress.ir.analysis import cost
from onnx_compress.ir.errors import CompressError, InvalidError
from onnx_compress.ir.graph import files, invariants
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes import Pass
from onnx_compress.testing.feeds import Feed
from onnx_compress.testing.outputs import Yardstick, compare, resolution
from onnx_compress.testing.trial import Trial, tried

EXACT = 1e-6  # relative size of rounding
_NAMES = 128  # bytes that longer names may take
BOUND = 0.02  # relative error of a weight that lossy passes are held to where they say nothing


class Failed(AssertionError):
    """A check that does not hold. `check`: its name."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check, self.what = check, what


def argument_untouched(trial: Trial, feeds: Sequence[Feed]) -> None:
    """The model that the pass was given is as it was."""
    if trial.before != trial.after:
        raise Failed("argument_untouched", "the model given was changed")


def valid(trial: Trial, feeds: Sequence[Feed]) -> None:
    """onnx's checker accepts the result, and the graph is sound."""
    try:
        onnx.checker.check_model(trial.result)
        invariants.check(trial.changed)
    except (onnx.checker.ValidationError, CompressError) as error:
        raise Failed("valid", str(error)) from None


def loads(trial: Trial, feeds: Sequence[Feed]) -> None:
    """ONNX Runtime takes the result, with its optimizations and without, and runs it."""
    for optimize in () if trial.same else (True, False):
        try:
            session = trial.session("changed", optimize)
            for feed in feeds:
                session.call(feed)
        except InvalidError as error:
            raise Failed("loads", str(error)) from None


def interface_kept(trial: Trial, feeds: Sequence[Feed]) -> None:
    """Inputs and outputs have the names, types and open dimensions that they had."""
    for kind in ("input", "output"):
        old, new = (_ports(model, kind) for model in (trial.model, trial.result))
        if old != new:
            raise Failed("interface_kept", f"the {kind}s changed from {old} to {new}")


def unmodified_is_identical(trial: Trial, feeds: Sequence[Feed]) -> None:
    """A pass that says it changed nothing gives the same bytes."""
    if trial.report is None or trial.report.modified:
        return
    if not trial.same:
        raise Failed("unmodified_is_identical", "it reports no change, but the bytes differ")


def modified_is_different(trial: Trial, feeds: Sequence[Feed]) -> None:
    """A pass that says it changed something did."""
    if trial.report is None or not trial.report.modified:
        return
    if trial.same:
        raise Failed("modified_is_different", "it reports changes, but the bytes are the same")


def deterministic(trial: Trial, feeds: Sequence[Feed]) -> None:
    """A second run on the same model gives the same bytes."""
    again = tried(trial.pass_, trial.model, feeds)
    one, other = (found.result.SerializeToString(deterministic=True) for found in (trial, again))
    if one != other:
        raise Failed("deterministic", "two equal runs give different bytes")


def idempotent(trial: Trial, feeds: Sequence[Feed]) -> None:
    """Run on its own result, a pass that says so changes nothing."""
    if trial.report is None or not (isinstance(trial.pass_, Pass) and trial.pass_.idempotent):
        return
    if trial.same:  # run on the same model again: that is what `deterministic` does
        return
    again = tried(trial.pass_, trial.result, feeds)
    if again.report is not None and again.report.modified:
        found = "; ".join(f"{e.subject}: {e.text}" for e in again.report.changes[:3])
        raise Failed("idempotent", f"a second run changes its own result: {found}")


def cost_not_grown(trial: Trial, feeds: Sequence[Feed]) -> None:
    """Neither bytes, nor stored numbers, nor multiply-accumulates are more than before."""
    if getattr(trial.pass_, "adds_cost", False) or trial.same or not feeds:
        return
    before, after = (cost(model, feeds[0]) for model in (trial.original, trial.changed))
    sizes = tuple(files.file_size(model) for model in (trial.original, trial.changed))
    found = {"bytes": sizes, "multiply-accumulates": (before.macs, after.macs)}
    for name, (old, new) in found.items():
        if new > old + (_NAMES if name == "bytes" else 0):
            raise Failed("cost_not_grown", f"{name} grew from {old} to {new}")


def all_accounted_for(trial: Trial, feeds: Sequence[Feed]) -> None:
    """Every weight was changed, or left alone with a reason. Of lossy passes only."""
    if trial.report is None or trial.exact:
        return
    named = {entry.subject for entry in (*trial.report.changes, *trial.report.skipped)}
    lost = [weight.name for weight in find_weights(trial.original) if weight.name not in named]
    if lost:
        raise Failed("all_accounted_for", f"nothing is said of {', '.join(lost)}")
    silent = [entry.subject for entry in trial.report.skipped if not entry.text.strip()]
    if silent:
        raise Failed("all_accounted_for", f"no reason is given for {', '.join(silent)}")


def metadata_kept(trial: Trial, feeds: Sequence[Feed]) -> None:
    """What the model says of itself, and documentation of nodes that are still there."""
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        old, new = getattr(trial.model, name), getattr(trial.result, name)
        if old != new:
            raise Failed("metadata_kept", f"{name} changed from {old!r} to {new!r}")
    old, new = ({e.key: e.value for e in m.metadata_props} for m in (trial.model, trial.result))
    lost = [key for key in old if new.get(key) != old[key]]
    if lost:
        raise Failed("metadata_kept", f"metadata_props lost {lost[0]}")
    for graph in ("name", "doc_string"):
        if getattr(trial.model.graph, graph) != getattr(trial.result.graph, graph):
            raise Failed("metadata_kept", f"the graph's {graph} changed")
    documented = {(n.op_type, n.name, *n.output): n.doc_string for n in trial.result.graph.node}
    for node in trial.model.graph.node:
        kept = documented.get((node.op_type, node.name, *node.output))
        if kept is not None and kept != node.doc_string:
            raise Failed("metadata_kept", f"the node {node.name} lost its doc_string")


def outputs_kept(trial: Trial, feeds: Sequence[Feed], tolerance: float | None = None) -> None:
    """Outputs are those of the original: for exact passes up to rounding, else up to the bound.

    What a model does to small errors differs from model to model, so both are measured by what
    random relative changes of its weights, of the size allowed, do to its outputs.
    """
    allowed = tolerance if tolerance is not None else EXACT if trial.exact else _bound(trial)
    if trial.same:
        return
    yardstick = Yardstick(trial.original, allowed)
    fitted = None if trial.exact or not feeds else partial(yardstick.level, feeds[0])
    for feed in feeds:
        for optimize, how in ((True, "optimized"), (False, "as it is")):
            one, other = (
                trial.session(which, optimize).call(feed) for which in ("original", "changed")
            )
            always = fitted if feed is not feeds[0] else None
            apart = 0.0 if trial.exact else allowed
            _held(trial, one, other, partial(yardstick, feed), how, always, apart)


def reference_agrees(trial: Trial, feeds: Sequence[Feed], tolerance: float = 1e-3) -> None:
    """onnx.reference, a runtime of its own, also finds an exact pass exact.

    Models that it cannot run, or gives other shapes for than ONNX Runtime does, are left out.
    """
    from onnx.reference import ReferenceEvaluator

    if trial.same or not trial.exact:
        return
    yardstick = Yardstick(trial.original, tolerance)
    for feed in feeds[:1]:
        try:
            with np.errstate(all="ignore"):
                one = list(ReferenceEvaluator(trial.model).run(None, dict(feed)))
        except Exception:  # it does not know every operator in every form
            return
        ours = trial.session("original", False).call(feed)
        if any(np.shape(a) != np.shape(b) for a, b in zip(one, ours, strict=True)):
            return
        with np.errstate(all="ignore"):
            try:
                other = list(ReferenceEvaluator(trial.result).run(None, dict(feed)))
            except Exception as error:
                text = f"onnx.reference ran the original, but not the result: {error}"
                raise Failed("reference_agrees", text) from None
        _held(trial, one, other, partial(yardstick, feed), "in onnx.reference")


def _bound(trial: Trial) -> float:
    found = getattr(trial.pass_, "weight_error", None)
    return BOUND if found is None else float(found)


def _held(
    trial: Trial,
    one: list[Any],
    other: list[Any],
    shaken: Callable[[int], Iterable[Any]],
    how: str,
    level: Callable[[int], float] | None = None,
    apart: float = 0.0,
) -> None:
    names, coarse = [info.name for info in trial.model.graph.output], resolution(trial.model)
    for at, name in enumerate(names):
        always = float if level is None else partial(level, at)
        what = compare(one[at], other[at], partial(shaken, at), coarse, always, apart)
        if what:
            raise Failed("outputs_kept", f"{name}, {how}: {what}")


def _ports(model: ModelProto, kind: str) -> list[tuple[str, bytes]]:
    stored = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    return [
        (info.name, info.type.SerializeToString(deterministic=True))
        for info in getattr(model.graph, kind)
        if info.name not in stored
    ]


Check = Callable[[Trial, Sequence[Feed]], None]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        argument_untouched,
        valid,
        interface_kept,
        loads,
        unmodified_is_identical,
        modified_is_different,
        outputs_kept,
        reference_agrees,
        deterministic,
        idempotent,
        cost_not_grown,
        all_accounted_for,
        metadata_kept,
    )
}
