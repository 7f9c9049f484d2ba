"""Repair: every weight refitted so that what it gives is what it gave before.

    min |W x - V x' - b|^2 + d |V - W'|^2      x: in the original, x': now, W': W cut

Front to back, in stages: each sees what the stages before it have repaired. What the data do not
tell stays as it is. Sources: channel pruning (1707.06168), CORP (2602.05243), FSKD (1812.01839).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis.channels import Twins
from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.graph.build import add_exit, drop_exit
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.weights import Use, Weight, find_weights
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.prune.bias import add_to_bias
from onnx_compress.passes.statistics.collect import collect
from onnx_compress.passes.statistics.regression import Fit, Regression
from onnx_compress.passes.statistics.request import Look

_REPAIRED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_DAMPING = 0.01
_SAME = 1e-6  # relative; changes below are rounding
_ROWS = 4.0  # rows of data for each column, where there are as many


@dataclass(frozen=True, eq=False)
class Part:
    """A weight to be repaired: its use, that of the original, and which rows stayed there."""

    weight: Weight
    use: Use
    original: Weight
    reference: Use
    chosen: Array  # [G', R', 2]


Cut = Callable[[Node, int, Array], Array]  # an operand of the original as it is in the model


def parts(model: Model, original: Model, twin: dict[Node, Node], cut: Cut) -> list[Part]:
    """What can be repaired, in the order in which it is computed.

    `twin`: nodes of the original by those of the model.
    """
    before = {(use.node, use.slot): (w, use) for w in find_weights(original) for use in w.uses}
    found: dict[Node, Part] = {}
    for weight in find_weights(model):
        use = weight.uses[0] if weight.sole_use else None
        if use is None or use.node.op not in _REPAIRED or source(use) is None:
            continue
        if use.slot != 1 or use.node.graph is not model.graph or use.node not in twin:
            continue
        entry = before.get((twin[use.node], use.slot))
        if entry is None or weight.dtype != "FLOAT":
            continue
        layout = entry[1].layout
        numbers = np.arange(int(np.prod(layout.shape))).reshape(layout.shape)
        kept = use.layout.matrix(cut(use.node, use.slot, numbers))
        lookup = layout.matrix(numbers)
        group, row = (np.empty(numbers.size, np.int64) for _ in range(2))
        at = np.broadcast_to(np.arange(layout.groups)[:, None, None], lookup.shape)
        group[lookup.reshape(-1)] = at.reshape(-1)
        at = np.broadcast_to(np.arange(layout.rows)[None, :, None], lookup.shape)
        row[lookup.reshape(-1)] = at.reshape(-1)
        chosen = np.stack([group[kept[:, :, 0]], row[kept[:, :, 0]]], axis=-1)
        if (chosen[:, :1, 0] == chosen[:, :, 0]).all():
            found[use.node] = Part(weight, use, *entry, chosen)
    return [found[node] for node in model.graph.sorted() if node in found]


def repair(
    model: Model,
    original: Model,
    items: Sequence[Part],
    feeds: Sequence[Feed],
    stages: int,
    progress: Callable[[int, int], None],
) -> set[str]:
    """Refit all parts; gives the names of the weights that were changed."""
    done: set[str] = set()
    size = -(-len(items) // max(min(stages, len(items)), 1)) if items else 1
    for start in range(0, len(items), size):
        chunk = items[start : start + size]
        for part, fit in _fits(model, original, chunk, feeds):
            if _refit(model, part, fit):
                done.add(part.weight.name)
        progress(min(start + size, len(items)), len(items))
    return done


def _fits(
    model: Model, original: Model, chunk: Sequence[Part], feeds: Sequence[Feed]
) -> list[tuple[Part, Fit]]:
    now, then = (
        _upto(whole, [use.node for use in uses])
        for whole, uses in (
            (model, [part.use for part in chunk]),
            (original, [part.reference for part in chunk]),
        )
    )
    requests = [
        Regression(
            now.use(part.use),
            then.model,
            then.use(part.reference),
            part.reference.matrix(part.original.array()),
            part.chosen,
        )
        for part in chunk
    ]
    look = Look(windows=max(_ROWS / max(len(feeds), 1), 0.02))
    found = collect(now.model, requests, feeds, look=look)
    return [(part, found[request]) for part, request in zip(chunk, requests, strict=True)]


@dataclass(frozen=True, eq=False)
class _Front:
    """The part of a model that some nodes need, with nothing behind them."""

    model: Model
    node: dict[Node, Node]

    def use(self, use: Use) -> Use:
        """The same use here."""
        return Use(self.node[use.node], use.slot, use.path, use.layout)


def _upto(model: Model, nodes: Sequence[Node]) -> _Front:
    front = clone(model)
    twins = Twins(model, front)
    old = [value for value, _ in front.graph.outputs]
    for value in old:
        drop_exit(value, front.graph)
    front.graph.outputs = []
    for node in nodes:
        value = twins.node[node].output
        front.graph.outputs.append((value, None))
        add_exit(value, front.graph)
    every = [value for node in front.graph.nodes for value in node.outputs if value is not None]
    remove_unused(front, [*old, *every])
    return _Front(front, twins.node)


def _refit(model: Model, part: Part, fit: Fit) -> bool:
    """Solve, and write weight and bias."""
    old = part.use.matrix(part.weight.array()).astype(np.float64)
    new = old.copy()
    for group in range(len(old) if fit.inner.size else 0):
        new[group] = solved(old[group], fit.inner[group], fit.cross[group], fit.rows)
    shift = fit.target - np.einsum("grk,gk->gr", new, fit.mean)
    size = float(np.abs(new - old).max()) + float(np.abs(shift).max())
    if size <= _SAME * max(float(np.abs(old).max()), 1e-30) or not np.isfinite(size):
        return False
    if not add_to_bias(model, part.use, shift.reshape(-1)):
        return False
    operand = part.use.layout.restore(new).astype(np.float32)
    model.set_constant(part.weight.value, part.use.path.undo(operand, part.weight.shape))
    return True


def solved(old: Array, inner: Array, cross: Array, rows: int) -> Array:
    """V, near `old` where the data do not say more. `inner` [K, K], `cross` [R, K]."""
    from scipy.linalg import cho_factor, cho_solve
    from threadpoolctl import threadpool_limits

    columns = len(inner)
    level = max(float(np.diagonal(inner).mean()), 1e-30)
    damping = level * (_DAMPING + columns / max(rows, 1) * _DAMPING)
    system = inner + damping * np.eye(columns)
    with threadpool_limits(1):
        factor = cho_factor(system, lower=True)
        return np.asarray(old + cho_solve(factor, (cross - old @ inner).T).T)
