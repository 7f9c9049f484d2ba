"""Weights of a model, put into codes.

plans    which form each gets, and how its uses read it         plan.py, readers.py
smooth   outliers of what products are given move into weights  smooth.py
bytes    whole stretches of the graph compute with integers     static/
numbers  codes and scales, one weight after the other           sequence.py
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.files import file_size
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import executed
from onnx_compress.ir.weights import Inventory, Use, Weight
from onnx_compress.ir.weights.densify import densify
from onnx_compress.ir.weights.forms import READERS, minimum_opset, spell_out, thin_out
from onnx_compress.kernels.machine.compiled import prepare
from onnx_compress.passes.base import Context, Entry, Report
from onnx_compress.passes.bias import add_to_bias
from onnx_compress.passes.quant.notes import doubtful, memory
from onnx_compress.passes.quant.plan import Plan, main_use
from onnx_compress.passes.quant.readers import Choice
from onnx_compress.passes.quant.residual import uncorrected
from onnx_compress.passes.quant.sequence import solve_all
from onnx_compress.passes.quant.smooth import Smoothed, smooth
from onnx_compress.passes.quant.solve import Solved, described
from onnx_compress.passes.quant.static import Integers, placed, settled
from onnx_compress.passes.reachable import raise_to, reachable
from onnx_compress.passes.verify.emitted import emit, unread_note

_WORTH = 5000  # times a weight, that a model may be, for it to be worth an error
WEAKEST = "dB of the weakest input that became bytes"
INTEGERS = "whether there were any"
Plans = dict[Weight, Plan]


class Asked(Protocol):
    """Options of the pass, as far as they matter here."""

    @property
    def activations(self) -> str | None:
        """Whether products may be of integers."""

    @property
    def least_db(self) -> float:
        """Signal to noise that an input must keep as bytes."""

    @property
    def residual_rank(self) -> int:
        """Of a correction beside codes of few bits."""

    @property
    def sequential(self) -> bool:
        """Whether each weight is fitted to what those before it became."""

    def bits_of(self, weight: Weight, short: bool = True) -> float:
        """Bits of a weight; `short`: sixteen of rows that are too short for fewer."""

    def planned(self, weight: Weight, choice: Choice | None) -> Plan | No:
        """The form of a weight and its readers, or why it is left alone."""


def encode(model: Model, context: Context, asked: Asked) -> Report:
    """Encode every weight that gets smaller by it."""
    plain = densify(model)  # pruned weights: their zeros stay
    done = _Done(model, context, asked)
    choice, smoothed = None, Smoothed(model)
    newest, refused = reachable(model, context, (r.minimum_opset for r in READERS.values()))
    found = context.weights(model)
    if any(asked.bits_of(weight) <= 8 for weight in found):
        if context.fit:
            prepare(sum(weight.size for weight in found))  # while samples run
        done.skipped += [Entry("operator set", refused)] if refused else []
        least = inf if asked.activations == "float" else asked.least_db
        smoothed = smooth(model, _products(model, found, context, asked, newest), context)
        choice = Choice.observed(model, context, newest, least)
    done.skipped += [Entry(item.name, item.reason) for item in found.skipped]
    old = refused or "the target's operator set is too old"
    plans = done.planned(found, choice, newest, old)
    smoothed.undo({w: "dynamic" in each.readers.values() for w, each in plans.items()})
    integers = done.put_into_bytes(found, plans, choice, smoothed, newest)
    needed = minimum_opset(name for each in plans.values() for name in each.readers.values())
    for weight, solved in solve_all(model, plans, context, asked.sequential):
        if isinstance(solved, No):
            done.skipped.append(Entry(weight.name, solved.reason))
        else:
            done.write(weight, plans[weight], solved, needed)
    integers.finish()
    thin_out(model, plain)  # those that are left alone
    done.spell_out()
    return done.report((*smoothed.notes(), *integers.notes))


@dataclass
class _Done:
    """What was done so far. `used`: how many weights are read in which way."""

    model: Model
    context: Context
    asked: Asked
    changes: list[Entry] = field(default_factory=list)
    skipped: list[Entry] = field(default_factory=list)
    doubts: list[Entry] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    unread: tuple[str, ...] = ()
    unloaded: int = 0  # bytes that are small in the file alone

    def planned(self, found: Inventory, choice: Choice | None, newest: int, old: str) -> Plans:
        """What each weight is to get; `old`: why the operator set cannot be newer."""
        plans: Plans = {}
        already, whole = settled(self.model), file_size(self.model)
        for weight in found:
            chosen = self.asked.planned(weight, choice)
            if weight.nbytes * _WORTH < whole and isinstance(chosen, Plan):
                chosen = No(f"too small: {weight.nbytes} bytes of {whole}")
            if already and weight.dtype == "FLOAT16" and self.asked.bits_of(weight) == 8:
                chosen = No("in 16 bits beside activations in bytes")
            elif isinstance(chosen, Plan) and chosen.minimum_opset > newest:
                chosen = No(old)
            if isinstance(chosen, No):
                self.skipped.append(Entry(weight.name, chosen.reason))
            else:
                plans[weight] = chosen
        return plans

    def put_into_bytes(
        self,
        found: Inventory,
        plans: Plans,
        choice: Choice | None,
        smoothed: Smoothed,
        newest: int,
    ) -> Integers:
        """Stretches of integers, where they are allowed; `plans` of what they read change."""
        context, integers = self.context, Integers(self.model, self.context)
        fitting: list[Weight] = []
        if choice is not None and self.asked.activations != "float":
            eight = [w for w in found if self.asked.bits_of(w, short=False) == 8]
            fitting = [w for w in eight if choice.holds(w) and w not in smoothed.multiplied]
        read = [use for each in plans.values() for use in _dynamic(each)]
        if fitting:
            choose = self.asked.activations is None
            integers = placed(self.model, fitting, plans, context, newest, choose)
            plans |= integers.plans
            taken = {weight.name for weight in integers.plans}
            self.skipped = [entry for entry in self.skipped if entry.subject not in taken]
            self.changes += integers.changes
            self.skipped += integers.skipped
        if context.memo is not None:
            may = [use for w in fitting for use in w.uses if context.target.speed.get("static")]
            context.memo[WEAKEST] = choice.weakest([*read, *may]) if choice is not None else inf
            context.memo[INTEGERS] = bool(read or integers.plans)
        return integers

    def write(self, weight: Weight, plan: Plan, solved: Solved, needed: int) -> None:
        """Store one weight, and take what its error adds to means off a bias."""
        model, now = self.model, self.model.opset()
        if needed > now:
            self.changes.append(Entry("operator set", f"raised from {now} to {needed}"))
            raise_to(model, self.context, needed)
        self.doubts += [Entry(weight.name, solved.note)] if solved.note else []
        form, use = solved.form, main_use(weight)
        self.changes.append(Entry(weight.name, described(weight, plan, form)))
        rank = self.asked.residual_rank
        if rank and self.asked.bits_of(weight) < 8 and solved.factors is None:
            reason = uncorrected(weight, rank) or "its codes need none"
            self.skipped.append(Entry(weight.name, f"no correction: {reason}"))
        readers = {form.readers.get(use, form.default) for use in weight.uses} or {form.default}
        self.used.update(readers)
        self.unloaded += weight.nbytes if form.default in readers else 0
        if solved.shift is not None and use is not None:
            add_to_bias(model, use, -solved.shift)
        if solved.factors is not None and use is not None:
            solved.factors.add(model, use)
        self.unread += emit(form, weight)

    def spell_out(self) -> None:
        """Weights that would be decoded at every run are written so that they are at load."""
        if not self.used["dequantize"] or not self.context.target.features:
            return  # for no processor in particular: other runtimes know DequantizeLinear best
        try:
            ran = executed(self.model, self.context.sample)
        except InvalidError:
            return  # the check after the pass says what is wrong
        slow = spell_out(self.model, {name for op, name in ran if op == "DequantizeLinear"})
        self.used.update({"codec": slow, "dequantize": -slow})

    def report(self, before: Sequence[str]) -> Report:
        """In words. `before`: what was done to the numbers themselves."""
        detail = ", ".join(f"{count} {name}" for name, count in sorted((+self.used).items()))
        done = sum(entry.subject != "operator set" for entry in self.changes)
        summary = f"{done} weights" + (f" ({detail})" if detail else "")
        notes = (*before, *memory(self.unloaded), *unread_note(self.unread))
        doubts = doubtful(self.doubts)
        return Report(tuple(self.changes), tuple(self.skipped), summary, (*notes, *doubts))


def _dynamic(plan: Plan) -> list[Use]:
    return [use for use, how in plan.readers.items() if how == "dynamic"]


def _products(
    model: Model, found: Inventory, context: Context, asked: Asked, newest: int
) -> list[Weight]:
    """Weights whose products may be of integers that are made at run time."""
    if asked.activations == "float" or not context.fit:
        return []
    eight = [weight for weight in found if asked.bits_of(weight) == 8]
    if not eight:
        return []
    trial = Choice.supposed(model, found, context, newest)
    return [w for w in eight if "dynamic" in trial.readers(w).values()]
