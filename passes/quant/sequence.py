"""The numbers of all weights, layer by layer: each is fitted to what those before it became.

    original   x ----------> W  y = W x             both are walked stage by stage; a stage is all
    changed    x' ----------> V  V x' + b ~ y       weights with as many weighted nodes before them

V replaces W in a copy before the next stage is run. Weights that no stage reaches, in bodies of
If and Loop, and recurrent ones that multiply what their own node makes, are fitted to the original;
so are all where activations are bytes: their noise in x' would make V smaller than W.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from onnx_compress.ir.errors import CalibrationError, InvalidError, UnsupportedError
from onnx_compress.ir.graph import Model, Node, clone
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime.walk import Walk
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight, find_weights
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.base import Context
from onnx_compress.passes.bias import add_to_bias
from onnx_compress.passes.quant.data import Seen, at_once, multiplying
from onnx_compress.passes.quant.plan import Plan, main_use
from onnx_compress.passes.quant.solve import Solved, solve
from onnx_compress.passes.quant.static.plans import STATIC
from onnx_compress.passes.solvers.parallel import one_thread, workers
from onnx_compress.passes.statistics import CrossMoment, Look, Mean, Moment

Answer = tuple[Weight, Solved | No]
_WINDOWS, _MOST = 4.0, 16.0  # of convolutions, for each column; more while that is little work:
_WORK = 1 << 37  # products, of a moment
_AT_ONCE, _SMALL = 2, 1 << 21  # weights that are solved at a time, and bytes that they may have


def solve_all(
    model: Model, plans: Mapping[Weight, Plan], context: Context, sequential: bool
) -> Iterator[Answer]:
    """Weight by weight, in the order of `plans`; the model may be changed in between.

    One at a time where that is possible: arrays are large.
    """
    fitted = multiplying([weight for weight, plan in plans.items() if plan.bits < 16])
    staged = {w: use for w, use in fitted.items() if _reached(model, use)}
    held: dict[Weight, Solved | No] = {}
    noisy = any({STATIC, "dynamic"} & {*plan.readers.values()} for plan in plans.values())
    if noisy or not (sequential and staged and context.fit):
        staged = {}
    seen = at_once(model, {w: use for w, use in fitted.items() if w not in staged}, context)
    if staged:
        held = _in_stages(model, plans, context, staged, seen)
    done = 0
    for some in _batches(list(plans)):
        context.progress(done, len(plans), "weights")
        held |= _solved([weight for weight in some if weight not in held], plans, seen, context)
        for weight in some:
            seen.pop(weight, None)
            yield weight, held.pop(weight)
        done += len(some)


def _in_stages(
    model: Model,
    plans: Mapping[Weight, Plan],
    context: Context,
    staged: Mapping[Weight, Use],
    seen: Mapping[Weight, Seen],
) -> dict[Weight, Solved | No]:
    """All weights: those that no stage reaches first. Fewer where the model cannot be walked."""
    found: dict[Weight, Solved | No] = {}
    stages = _Stages(model, plans, context)
    found |= _solved([weight for weight in plans if weight not in staged], plans, seen, context)
    for weight, solved in found.items():
        stages.change(weight, solved)
    depths = _depths(model, staged)
    order = sorted(staged, key=lambda weight: depths[staged[weight].node])
    try:
        for _, group in groupby(order, key=lambda weight: depths[staged[weight].node]):
            for weight, solved in stages.solve(list(group)):
                found[weight] = solved
                context.progress(len(found), len(plans), "weights")
    except (UnsupportedError, InvalidError):  # what flows there is no tensor, or has no type
        rest = {weight: use for weight, use in staged.items() if weight not in found}
        answers = at_once(model, rest, context)
        found |= _solved(list(answers), plans, answers, context)
    return found


def _solved(
    weights: Sequence[Weight],
    plans: Mapping[Weight, Plan],
    seen: Mapping[Weight, Seen],
    context: Context,
) -> dict[Weight, Solved | No]:
    """The numbers of some weights, which know nothing of each other."""

    def one(weight: Weight) -> Solved | No:
        known = seen.get(weight)
        found = solve(weight, plans[weight], known, context.target.saturates)
        if isinstance(found, No) or known is None:
            return found
        return replace(found, note=known.moments.note)

    found: dict[Weight, Solved | No] = {}
    for some in _batches(weights):
        if len(some) == 1:
            with one_thread():  # sums must not depend on the threads there are
                found[some[0]] = one(some[0])
            continue
        with workers(_AT_ONCE) as pool:
            jobs = [pool.submit(copy_context().run, one, weight) for weight in some]
            found |= {weight: job.result() for weight, job in zip(some, jobs, strict=True)}
    return found


def _batches(weights: Sequence[Weight]) -> list[list[Weight]]:
    """As many at a time as take little memory, in their order."""
    found: list[list[Weight]] = []
    for weight in weights:
        last = found[-1] if found else []
        size = sum(each.nbytes for each in (*last, weight))
        if last and len(last) < _AT_ONCE and size <= _SMALL:
            last.append(weight)
        else:
            found.append([weight])
    return found


def _reached(model: Model, use: Use) -> bool:
    known = source(use)
    return known is not None and not known.made and use.node.graph is model.graph


def _depths(model: Model, staged: Mapping[Weight, Use]) -> dict[Node, int]:
    """How many weighted nodes stand before each node of the main graph, on the longest way."""
    weighted = {use.node for use in staged.values()}
    found: dict[Node, int] = {}
    for node in model.graph.sorted():
        makers = [v.producer for v in (*node.inputs, *node.captures) if v and v.producer]
        known = [found[m] + (m in weighted) for m in makers if m in found]
        found[node] = max(known, default=0)
    return found


class _Stages:
    def __init__(self, model: Model, plans: Mapping[Weight, Plan], context: Context) -> None:
        self.plans, self.context = plans, context
        self._changed = clone(model)
        pairs = zip(find_weights(model), find_weights(self._changed), strict=True)
        twins = {weight.value: twin for weight, twin in pairs}
        self._twins = {weight: twins[weight.value] for weight in plans}
        feeds = list(context.fit)
        self._old, self._new = Walk(model, feeds, 2), Walk(self._changed, feeds, 2)

    def change(self, weight: Weight, solved: Solved | No) -> None:
        """Let the copy have the decoded numbers, and the bias that goes with them."""
        if isinstance(solved, No):
            return
        twin = self._twins[weight]
        use = main_use(twin)
        if solved.shift is not None and use is not None:
            add_to_bias(self._changed, use, -solved.shift)
        Dense(solved.decode(use)).emit(twin)

    def solve(self, group: list[Weight]) -> Iterator[Answer]:
        """One stage."""
        seen = self._seen(group)
        for weight, solved in _solved(group, self.plans, seen, self.context).items():
            self.change(weight, solved)
            yield weight, solved

    def _seen(self, group: list[Weight]) -> dict[Weight, Seen]:
        """H, C and the means of all weights of a stage; those that share inputs share them."""
        uses = {w: (main_use(w), main_use(self._twins[w])) for w in group}
        sums: dict[Any, _Sums] = {}
        look = Look(_WINDOWS, samples=max(self._old.count, 1), work=_WORK, most=_MOST)
        keys = {}
        for weight, (old, new) in uses.items():
            if old is None or new is None:
                continue
            keys[weight] = Moment(old).key()
            sums.setdefault(keys[weight], _Sums(self._changed, old, new, look))
        for walk, at in ((self._old, 0), (self._new, 1)):
            taps = [tap for each in sums.values() for tap in each.taps(at)]
            walk.reach([v for tap in taps if (v := tap.node.input(tap.slot)) is not None])
        with workers(2) as pool:
            for sample in range(self._old.count):
                jobs = [
                    job
                    for each in sums.values()
                    for job in each.adding(self._old, self._new, sample)
                ]
                for job in [pool.submit(job) for job in jobs]:
                    job.result()
            answers = {key: each.result() for key, each in sums.items()}
        return {w: found for w, key in keys.items() if (found := answers[key]) is not None}


class _Sums:
    """Of one value that weights are multiplied by, in both models."""

    def __init__(self, changed: Model, old: Use, new: Use, look: Look) -> None:
        self._moment = Moment(new).start(look)
        self._mean = Mean(old).start(look)
        whole = old.layout.groups == 1 and old.layout.columns <= look.widest
        self._cross = CrossMoment(new, changed, old).start(look) if whole else None

    def taps(self, at: int) -> list[Tap]:
        """Of the original, or of the changed model."""
        return list((self._mean, self._moment)[at].taps)

    def adding(self, old: Walk, new: Walk, sample: int) -> list[Callable[[], None]]:
        """What is to be done with one sample; all of it may be done at the same time."""
        before = {tap: _value(old, tap, sample) for tap in self.taps(0)}
        after = {tap: _value(new, tap, sample) for tap in self.taps(1)}
        jobs: list[Callable[[], None]] = [
            partial(self._mean.add, before, None),
            partial(self._moment.add, after, None),
        ]
        if self._cross is not None:
            jobs.insert(0, partial(self._cross.add, {**before, **after}, None))
        return jobs

    def result(self) -> Seen | None:
        """None where nothing was seen, or no numbers."""
        try:
            moments, mean = self._moment.result(), self._mean.result()
        except CalibrationError:
            return None
        if not moments.rows:
            return None
        return Seen(moments, None if self._cross is None else self._cross.result()[0], mean)


def _value(walk: Walk, tap: Tap, sample: int) -> Any:
    value = tap.node.input(tap.slot)
    return None if value is None else walk.value(value, sample)
