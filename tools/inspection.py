"""inspect(): what is in a model, and what a pass could do with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnx_compress import calibration as data
from onnx_compress.groups import GroupRow, groups_of
from onnx_compress.ir.analysis import Cost, Shapes, cost
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.errors import CalibrationError, CompressError
from onnx_compress.ir.graph import Model, Value, clone, kinds
from onnx_compress.ir.graph.elements import nbytes, type_name
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.runtime.pieces import declared_port
from onnx_compress.ir.weights import Inventory, Weight, find_weights
from onnx_compress.passes import Context, Pass, Pipeline, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import EXCLUDED
from onnx_compress.passes.samples import draw

DEFAULT_PASSES = "quant(bits=8)"
_SAME, _UNTRIED = "nothing to do", "not tried"


@dataclass(frozen=True)
class Row:
    """One weight. `macs`: of all that reads it in one run; None if unknown. `share`: of bytes.

    `becomes`: what the passes would make of it, "" if nothing. `why`: why they leave it alone.
    """

    name: str
    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    kept: str
    bytes: int
    share: float
    macs: int | None
    becomes: str
    why: str


@dataclass(frozen=True)
class Inspection:
    """A model at a glance.

    `others`, `other_bytes`: stored tensors that are no weights of an operator: biases, shapes.
    `left`: what could have been a weight and is not, by reason. `unknown`: why the model could not
    be run, and shapes and what passes would do are not known; "" if it could. `groups`: those of
    channels, if asked for; `stuck`: positions of weights' axes that stay, by reason.
    """

    passes: str
    ir_version: int
    opset: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    rows: tuple[Row, ...]
    others: int
    other_bytes: int
    left: dict[str, str]
    cost: Cost
    unknown: str = ""
    groups: tuple[GroupRow, ...] = ()
    stuck: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"working_bytes": self.cost.working_bytes}


def inspect(
    model: Any,
    passes: str | Pipeline = DEFAULT_PASSES,
    calibration: data.Source | None = None,
    *,
    target: str | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    groups: bool = False,
) -> Inspection:
    """Weights by layer, totals, and what `passes` would do with each, tried on a copy.

    `model` and `calibration` as for `compress`; `groups`: look for channels, too.
    Raises the errors of `onnx_compress.ir.errors`.
    """
    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else passes
    kind = targets.load(target) if target else targets.host()
    original, _ = kinds.read(model)
    feed, inputs, outputs, unknown = _run(original, calibration, seed)
    found = find_weights(original)
    fates: list[_Fate] = [_Fate(why=_UNTRIED)] * len(found.weights)
    if feed is not None:
        context = Context(kind, feed, seed=seed, exclude=tuple(exclude))
        fates = _fates(original, found, pipeline, context)
    shapes = Shapes(original, feed)
    stored = [(value, t) for graph in original.graphs() for value, t in original.stored(graph)]
    total = sum(nbytes(tensor) for _, tensor in stored)
    rows = tuple(_row(w, total, shapes, fate) for w, fate in zip(found, fates, strict=True))
    alike, stuck = groups_of(original, shapes) if groups else ((), {})
    rest = len(stored) - len(rows), total - sum(row.bytes for row in rows)
    known = {row.name for row in rows}
    return Inspection(
        passes=str(pipeline),
        ir_version=original.ir_version,
        opset=original.opset(),
        producer=original.shell.producer_name,
        inputs=inputs,
        outputs=outputs,
        operators=dict(Counter(node.op for node in original.nodes()).most_common()),
        rows=rows,
        others=rest[0],
        other_bytes=rest[1],
        left={item.name: item.reason for item in found.skipped if item.name not in known},
        cost=cost(original, shapes=shapes),
        unknown=unknown,
        groups=alike,
        stuck=stuck,
    )


def _run(
    model: Model, calibration: data.Source | None, seed: int
) -> tuple[Feed | None, tuple[str, ...], tuple[str, ...], str]:
    """An input that the model takes, what goes in and out, and why there is none of these."""
    inputs = tuple(_port(value) for value in model.inputs())
    outputs = tuple(_port(value) for value in model.outputs())
    try:
        session = open_session(model)
        if calibration is None:
            return draw(model, session, 1, seed)[0], inputs, outputs, ""
        feed = data.read(calibration, session.inputs).feeds[0]
        session.run(feed)
    except CompressError as error:
        if calibration is not None and isinstance(error, CalibrationError):
            raise
        return None, inputs, outputs, str(error)
    return feed, inputs, outputs, ""


@dataclass(frozen=True)
class _Fate:
    """What passes would make of a weight, or why not."""

    becomes: str = ""
    why: str = ""


def _fates(model: Model, found: Inventory, pipeline: Pipeline, context: Context) -> list[_Fate]:
    """In the order of the weights. Those of one name, in two branches, are tried one by one."""
    together = _tried(clone(model), pipeline, context)
    counts = Counter(weight.name for weight in found)
    fates = []
    for at, weight in enumerate(found):
        reports = together
        if counts[weight.name] > 1:
            trial = clone(model)
            only = find_weights(trial).weights[at].value
            reports = _tried(trial, pipeline, replace(context, only=only))
        fates.append(_fate(weight.name, reports))
    return fates


def _tried(trial: Model, pipeline: Pipeline, context: Context) -> list[tuple[Pass, Report]]:
    settings = [item.settings(context)[0] for item in pipeline.passes]
    return [(item, item.run(trial, context)) for item in settings]


def _fate(name: str, reports: list[tuple[Pass, Report]]) -> _Fate:
    changes = [e.text for _, r in reports for e in r.changes if e.subject == name]
    if changes:
        return _Fate(becomes="; ".join(dict.fromkeys(changes)))
    left = [
        entry.text
        for item, report in reports
        for entry in report.skipped
        if entry.subject in (name, item.name) and entry.text != EXCLUDED
    ]
    excluded = any(e.subject == name for _, r in reports for e in r.skipped)
    return _Fate(why="; ".join(dict.fromkeys(left)) or (EXCLUDED if excluded else _SAME))


def _port(value: Value) -> str:
    port, known = declared_port(value), declared(value.info)
    kind = "no tensor" if known is None else type_name(known.element).lower()
    sizes = ", ".join("?" if dim is None else str(dim) for dim in port.shape)
    return f"{port.name}: {kind} [{sizes}]"


def _row(weight: Weight, total: int, shapes: Shapes, fate: _Fate) -> Row:
    counts = [macs(use.node, shapes) for use in weight.uses]
    known = [count for count in counts if count is not None]
    return Row(
        name=weight.name,
        operators=tuple(dict.fromkeys(use.node.op for use in weight.uses)),
        nodes=tuple(dict.fromkeys(use.node.name for use in weight.uses)),
        shape=weight.shape,
        dtype=weight.dtype.lower(),
        kept=weight.kept,
        bytes=weight.nbytes,
        share=weight.nbytes / max(total, 1),
        macs=sum(known) if len(known) == len(counts) else None,
        becomes=fate.becomes,
        why=fate.why,
    )
