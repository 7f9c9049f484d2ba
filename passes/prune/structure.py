"""Whole channels removed: chosen by what they do, and made up for in the weights that stay.

analysis -> ranking of each group -> how many of each -> removed -> weights refitted

With real inputs the ranking is by loss and everything is refitted; without, by magnitude, and
nothing is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import Channels, Group, Twins, find_channels, remove
from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights import Inventory, Weight, find_weights
from onnx_compress.passes.base import EXCLUDED, Context, Entry, Report
from onnx_compress.passes.prune.allocate import Allocation, Plan
from onnx_compress.passes.prune.consumers import Consumer, consumers
from onnx_compress.passes.prune.gains import with_gains
from onnx_compress.passes.prune.importance import (
    Ranking,
    rank_at_random,
    rank_by_data,
    rank_by_magnitude,
)
from onnx_compress.passes.prune.repair import parts, repair
from onnx_compress.passes.statistics.collect import collect
from onnx_compress.passes.statistics.covariance import Covariance, Covariances


@dataclass(frozen=True)
class Request:
    """`share` of `what` ("channels", "macs", "time") to remove.

    `score`: "data", "local" (losses without gains), "magnitude", "random"; `refit`: whether weights
    make up for it. None: as the data allow. The others are what the default is to be better than.
    """

    share: float
    what: str
    score: str | None = None
    refit: bool | None = None


def prune_structure(model: Model, context: Context, request: Request) -> Report:
    """Remove channels. A model of which nothing can go is left as it is, with the reasons."""
    found = find_weights(model)
    barred = _barred(model, context)
    channels, rankings = ranked(model, context, request.score)
    plan = Allocation(channels, rankings, context.target).run(request.share, request.what)
    gone = [m for r, count in zip(rankings, plan.counts, strict=True) for m in r.first(count)]
    shapes = {weight.name: weight.shape for weight in found}
    if not gone:
        return Report(
            skipped=tuple(_left(channels, found, barred, shapes)), summary="nothing can be removed"
        )
    refitted = _removed(model, channels, channels.removed(*gone), context, request)
    changes = _changes(model, shapes, refitted)
    changed = {entry.subject for entry in changes}
    left = [e for e in _left(channels, found, barred, shapes) if e.subject not in changed]
    notes = _speed_notes(request, plan, context)
    return Report(tuple(changes), tuple(left), _summary(plan, rankings), notes)


def _speed_notes(request: Request, plan: Plan, context: Context) -> tuple[str, ...]:
    """How much faster that should be, where a speed was asked for."""
    if request.what != "time":
        return ()
    found = f"{1 / max(1 - plan.time, 1e-9):.2f}x"
    short = "" if plan.time >= request.share - 1e-9 else ", and no more channels can go"
    return (f"estimated {found} as fast by the figures of {context.target.name}{short}",)


def _removed(
    model: Model, channels: Channels, removed: Array, context: Context, request: Request
) -> set[str]:
    """Cut the model, and repair it; gives the names of what was refitted."""
    refit = context.calibrated if request.refit is None else request.refit
    original = clone(model) if refit else model
    twin = Twins(model, original).node
    operands = {
        (use.node, use.slot): channels.axes.of(use.operand, use.node, use.slot)
        for weight in find_weights(model)
        for use in weight.uses
    }
    before = _stored(model)
    remove(channels, removed, model)
    if not refit:
        return set()

    def cut(node: Node, slot: int, array: Array) -> Array:
        for axis, ids in enumerate(operands[node, slot]):
            array = np.compress(~channels.gone(ids, removed), array, axis)
        return array

    items = parts(model, original, twin, cut)

    def progress(done: int, total: int) -> None:
        context.progress(done, total, "weights refitted")

    return repair(model, original, items, context.fit, progress, spare=before - _stored(model))


def _stored(model: Model) -> int:
    return sum(weight.nbytes for weight in find_weights(model))


def ranked(
    model: Model, context: Context, score: str | None = None
) -> tuple[Channels, list[Ranking]]:
    """The groups of channels that may go, those that can be told apart by importance."""
    channels = find_channels(model, Shapes(model, context.sample))
    barred = _barred(model, context)
    channels.groups = tuple(group for group in channels.groups if not barred & _values(group))
    memo = {} if context.memo is None else context.memo
    known = memo.get(("ranked", score))
    if known is None:
        found = _rankings(channels, find_weights(model), context, score)
        places = {group: at for at, group in enumerate(channels.groups)}
        known = [(places[each.group], each.order, each.losses) for each in found]
        memo["ranked", score] = known
    return channels, [Ranking(channels.groups[at], *rest) for at, *rest in known]


def _rankings(
    channels: Channels, found: Inventory, context: Context, score: str | None
) -> list[Ranking]:
    from threadpoolctl import threadpool_limits

    score = score or ("data" if context.calibrated else "magnitude")
    if score == "random":
        return rank_at_random(channels, context.seed)
    with threadpool_limits(1):  # equal bytes on any number of cores
        if score == "magnitude":
            return rank_by_magnitude(channels)
        readers = consumers(channels, found.weights)
        seen = _seen(channels.model, readers, context)
        rankings = rank_by_data(channels, readers, seen)
        if score == "local":
            return rankings
        return with_gains(channels, rankings, readers, seen, context.fit)


def _seen(
    model: Model, readers: Sequence[Consumer], context: Context
) -> dict[Consumer, Covariances]:
    requests = {reader: Covariance(*reader.tap) for reader in readers}
    asked = list(requests.values())
    statistics = collect(model, asked, context.fit, threads=2, cache=context.cache)
    return {reader: statistics[request] for reader, request in requests.items()}


def _barred(model: Model, context: Context) -> set[Value]:
    """Stored tensors that may not be changed."""
    barred = {weight.value for weight in context.excluded(model)}
    if context.only is not None:
        barred |= {w.value for w in find_weights(model) if w.value is not context.only}
    return barred


def _values(group: Group) -> set[Value]:
    keys = [key for key, _ in group.axes]
    read = [key if isinstance(key, Value) else key[0].input(key[1]) for key in keys]
    return {value for value in read if value is not None}


def _changes(model: Model, before: dict[str, tuple[int, ...]], refitted: set[str]) -> list[Entry]:
    changes = []
    for weight in find_weights(model):
        old = before.get(weight.name)
        if old is None:
            continue
        again = ", refitted" if weight.name in refitted else ""
        if weight.shape != old:
            changes.append(Entry(weight.name, f"{_text(old)} to {_text(weight.shape)}{again}"))
        elif again:
            changes.append(Entry(weight.name, "refitted"))
    return changes


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _left(
    channels: Channels, found: Inventory, barred: set[Value], shapes: dict[str, tuple[int, ...]]
) -> list[Entry]:
    """Why weights that are as they were are that."""
    out = [Entry(item.name, item.reason) for item in found.skipped]
    for weight in found:
        out.append(Entry(weight.name, _why(channels, weight, barred)))
    return out


def _why(channels: Channels, weight: Weight, barred: set[Value]) -> str:
    if weight.value in barred:
        return EXCLUDED
    reasons: dict[str, None] = {}
    for key, ids in channels.axes.ids.items():
        value = key if isinstance(key, Value) else key[0].input(key[1])
        if value is not weight.value:
            continue
        for own in ids:
            held = channels.solution.channel[own]
            if len(own) > 1 and not channels.solution.stays[held].all():
                return "its channels matter more than others"
            reasons |= {channels.solution.reason(c): None for c in held[:1].tolist()}
    return "; ".join(reasons) or "no channels"


def _summary(plan: Plan, rankings: Sequence[Ranking]) -> str:
    touched = sum(count > 0 for count in plan.counts)
    return (
        f"{plan.channels:.0%} of the channels removed from {touched} of {len(rankings)} groups: "
        f"{plan.macs:.0%} fewer multiply-accumulates, {plan.nbytes:.0%} fewer bytes"
    )
