"""Executed: does the runtime compute what its low-bit nodes say?

    inputs, as the runtime has them --> our kernels --> bit-exact, within rounding, or wrong
           └──────────────────────--> its node ────┘

Nodes are those that really run: the graph is the one that the runtime made of the model, and it
is checked that this one, watched, gives the very outputs of the model. Weights that the runtime
decodes when it loads the model are decoded here, too, and compared bit for bit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np

from onnx_compress.ir.errors import CancelledError, CompressError
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.decoded import decoded
from onnx_compress.ir.runtime.optimized import Optimized
from onnx_compress.ir.runtime.watch import Seen, Tap, Watch
from onnx_compress.ir.weights.effective import Effective, effective
from onnx_compress.passes.solvers.parallel import one_thread
from onnx_compress.passes.verify.diagnosis import diagnose
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.recompute import OTHERS, RECOMPUTED, Fit, fit

LEVEL = "executed"


class Watched(Protocol):
    """What runs a graph and shows values in it, as `Watch` does."""

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[tuple[list[Any], list[Seen]]]:
        """Sample by sample: the outputs, and what was seen in each run of each graph."""


Watching = Callable[[Model, Sequence[Tap]], Watched]
EXACT, WITHIN, SATURATED, WRONG, UNKNOWN = "exact", "within", "saturated", "wrong", "unknown"
_ORDER = (UNKNOWN, EXACT, WITHIN, SATURATED, WRONG)  # what is worse comes later


@dataclass(frozen=True)
class NodeCheck:
    """One node over all its runs: how it fits, the worst of all; `text`: what is odd about it."""

    node: str
    operator: str
    result: str
    text: str = ""


@dataclass(frozen=True)
class Executed:
    """What runs, and how it fits. `operators`: of the optimized graph, by number.

    `decoded`: weights that the runtime decoded when it loaded the model, and that were compared.
    """

    nodes: tuple[NodeCheck, ...] = ()
    operators: Counter[str] = field(default_factory=Counter)
    decoded: int = 0
    findings: tuple[Finding, ...] = ()

    def count(self, result: str) -> int:
        """How many nodes have a result."""
        return sum(node.result == result for node in self.nodes)


def executed(
    model: Model,
    ran: Optimized,
    feeds: Sequence[Feed],
    watching: Watching = Watch,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Executed:
    """Recompute the low-bit nodes of a model on some inputs; the first of `feeds` is that of `ran`.

    `watching`: what runs the watched graph; another one stands for a runtime with a fault.
    """
    operators = Counter(node.op for node in ran.model.nodes() if node.op != "Constant")
    findings = list(_counted(ran))
    graph, checks = ran.model, dict[Node, NodeCheck]()
    try:
        checks, found = _recomputed(graph, ran, feeds, watching, progress)
        findings += found
    except CancelledError:
        raise
    except CompressError as error:
        text = f"nodes are recomputed as written: what the runtime made of them {error.message}"
        findings.append(Finding(LEVEL, Severity.WARNING, "", text))
        graph = model
        try:
            checks, _ = _recomputed(graph, None, feeds, watching, progress)
        except CancelledError:
            raise
        except CompressError as problem:
            text = f"could not be watched: {problem}"
            findings.append(Finding(LEVEL, Severity.WARNING, "", text))
    known = _known(graph)
    rest = [node for node in known if node not in checks]
    unseen = [
        NodeCheck(node.name, node.op, UNKNOWN, "did not run on these inputs") for node in rest
    ]
    nodes = (*checks.values(), *unseen)
    findings += [_finding(check) for check in nodes if check.result in (SATURATED, WRONG)]
    strange = Counter(node.op for node in graph.nodes() if node.op in OTHERS - set(RECOMPUTED))
    for op, count in sorted(strange.items()):
        text = f"{count} nodes are not recomputed: no kernel of ours for it"
        findings.append(Finding(LEVEL, Severity.NOTE, op, text))
    kept, compared = _decodes(model)
    carried = _carried(model, ran.model)
    return Executed(nodes, operators, compared, (*findings, *kept, *carried))


def _known(graph: Model) -> list[Node]:
    return [node for node in graph.nodes() if node.op in RECOMPUTED]


def _recomputed(
    graph: Model,
    ran: Optimized | None,
    feeds: Sequence[Feed],
    watching: Watching,
    progress: Callable[[int, int], None],
) -> tuple[dict[Node, NodeCheck], list[Finding]]:
    """The nodes of one graph; `ran`: what its outputs should be. Raises InvalidError, LoadError."""
    known = _known(graph)
    checks: dict[Node, NodeCheck] = {}
    findings: list[Finding] = []
    taps = [tap for node in known for tap in _taps(node)]
    for done, (outputs, seen) in enumerate(watching(graph, taps).run_all(feeds) if known else ()):
        if not done and ran is not None:
            findings += _same(ran, outputs)
        with one_thread():  # small products: more threads wait for each other
            for node, values in product(known, seen):
                found = _checked(node, values)
                if found is not None and _worse(found, checks.get(node)):
                    checks[node] = found
        progress(done + 1, len(feeds))
    return checks, findings


def _counted(ran: Optimized) -> Iterator[Finding]:
    """Whether what was written out as the optimized graph is what ran."""
    for op in ran.missing():
        text = "does not run as often as it stands in the graph that the runtime wrote"
        yield Finding(LEVEL, Severity.WARNING, op, text)


def _same(ran: Optimized, outputs: Sequence[Any]) -> list[Finding]:
    """Whether the watched graph gives what the model gives."""
    if all(_equal(one, other) for one, other in zip(ran.outputs, outputs, strict=True)):
        return []
    text = "the runtime gives other outputs when it is watched: what was seen may not be what runs"
    return [Finding(LEVEL, Severity.WARNING, "", text)]


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or one.dtype == object:
        return True
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _taps(node: Node) -> list[Tap]:
    reads = [Tap(node, slot) for slot, value in enumerate(node.inputs) if value is not None]
    made = [Tap(node, at, made=True) for at, v in enumerate(node.outputs) if v is not None]
    return [*reads, *made]


def _checked(node: Node, values: Seen) -> NodeCheck | None:
    """One run of one node; None where it is not among what was seen."""
    if not any(tap.node is node for tap in _taps(node) if tap in values):
        return None
    inputs = [values.get(Tap(node, slot)) for slot in range(len(node.inputs))]
    results = [values.get(Tap(node, at, made=True)) for at in range(len(node.outputs))]
    if any(v is not None and inputs[at] is None for at, v in enumerate(node.inputs)):
        return None
    closest: Fit | None = None
    for way in RECOMPUTED[node.op](node, inputs):
        found = fit(way, results)
        if found.holds:
            result = SATURATED if way.warns else EXACT if found.exact else WITHIN
            return NodeCheck(node.name, node.op, result, way.note)
        closest = closest or found
    if closest is None:
        return NodeCheck(node.name, node.op, UNKNOWN, "not recomputed in this form")
    return NodeCheck(node.name, node.op, WRONG, f"does not follow from its inputs: {closest.off}")


def _worse(found: NodeCheck, known: NodeCheck | None) -> bool:
    return known is None or _ORDER.index(found.result) > _ORDER.index(known.result)


def _finding(check: NodeCheck) -> Finding:
    severity = Severity.WARNING if check.result == SATURATED else Severity.WRONG
    return Finding(LEVEL, severity, check.node, f"{check.operator} {check.text}")


def _decodes(model: Model) -> tuple[list[Finding], int]:
    """Weights that are decoded at load: by the runtime, and by us."""
    found: dict[Value, Effective] = {}
    for weight in effective(model):
        value = weight.node.input(weight.slot)
        if value is not None and model.tensor(value) is None and not weight.picks:
            found.setdefault(value, weight)
    findings: list[Finding] = []
    compared, folded = 0, Folded(model)
    for value, array in decoded(model, list(found)):
        weight = found[value]
        # what multiplies codes reads codes, whatever they are put together from
        expected = folded.array(value) if weight.codes is value else weight.numbers()
        if expected is None:
            continue
        compared += 1
        if not np.array_equal(expected, array, equal_nan=True):
            text = f"the runtime decodes its weight otherwise: {diagnose(expected, array)}"
            findings.append(Finding(LEVEL, Severity.WRONG, weight.name, text))
    return findings, compared


def _carried(model: Model, graph: Model) -> Iterator[Finding]:
    """Codes and scales of a fused node are those of the nodes that it was made of."""
    before = {weight.end.name: weight for weight in effective(model) if weight.codes is not None}
    for weight in effective(graph):
        source = before.get(weight.node.output.name)
        if source is None or weight.node.op not in RECOMPUTED:
            continue
        expected, got = source.numbers(), weight.numbers()
        if expected is None or got is None or expected.shape != got.shape:
            continue
        if not np.array_equal(expected, got, equal_nan=True):
            text = f"the runtime's optimizer changed its weight: {diagnose(expected, got)}"
            yield Finding(LEVEL, Severity.WRONG, source.name, text)
