"""inspect(): what is in a model, and what a pass could do with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx_compress import calibration as data
from onnx_compress.ir.analysis import Cost, Shapes, cost
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.errors import CalibrationError, CompressError
from onnx_compress.ir.graph import Model, Value, clone, kinds
from onnx_compress.ir.graph.elements import nbytes
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.runtime.pieces import declared_port
from onnx_compress.ir.weights import Weight, find_weights
from onnx_compress.passes import Context, Pipeline
from onnx_compress.passes import target as targets
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
    be run, and shapes and what passes would do are not known; "" if it could.
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
) -> Inspection:
    """Weights by layer, totals, and what `passes` would do with each, tried on a copy.

    `model` and `calibration` as for `compress`. Raises the errors of `onnx_compress.ir.errors`.
    """
    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else passes
    kind = targets.load(target) if target else targets.host()
    original, _ = kinds.read(model)
    feed, inputs, outputs, unknown = _run(original, calibration, seed)
    entries: dict[str, str] = {}
    reasons: dict[str, str] = {}
    if feed is not None:
        trial = clone(original)
        context = Context(kind, feed, seed=seed, exclude=tuple(exclude))
        for item in pipeline.passes:
            report = item.settings(context)[0].run(trial, context)
            entries |= {entry.subject: entry.text for entry in report.changes}
            reasons |= {entry.subject: entry.text for entry in report.skipped}
    found = find_weights(original)
    shapes = Shapes(original, feed)
    stored = [(value, t) for graph in original.graphs() for value, t in original.stored(graph)]
    total = sum(nbytes(tensor) for _, tensor in stored)
    rows = tuple(_row(w, total, shapes, entries, reasons, not unknown) for w in found)
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
        cost=cost(original, feed),
        unknown=unknown,
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


def _port(value: Value) -> str:
    port = declared_port(value)
    sizes = ", ".join("?" if dim is None else str(dim) for dim in port.shape)
    return f"{port.name}: {port.dtype or 'no tensor'} [{sizes}]"


def _row(
    weight: Weight,
    total: int,
    shapes: Shapes,
    entries: dict[str, str],
    reasons: dict[str, str],
    tried: bool,
) -> Row:
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
        becomes=entries.get(weight.name, ""),
        why=""
        if weight.name in entries
        else reasons.get(weight.name, _SAME if tried else _UNTRIED),
    )
