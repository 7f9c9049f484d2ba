"""Faults of the runtime: one low-bit node computes something else than it says.

    x --> DynamicQuantizeMatMul(codes) --> y      is checked
    x --> DynamicQuantizeMatMul(wrong) --> y      is what runs

A kernel with a fault cannot be put into the runtime, but what it would give can: in the graph that
the runtime made, the node is run with inputs or attributes that it does not have. The check sees
its inputs as they are, and its output as it comes. What no replacement can play (races, a kernel
that reads beyond its input) is not among them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np

from onnx_compress.bench.planted.fault import Case, Outcome, differ, feeds, swapped
from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import Model, Node, clone, files
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.runtime.optimized import Optimized, optimized
from onnx_compress.ir.runtime.watch import Seen, Tap, Watch
from onnx_compress.passes.verify.executed import WRONG, executed
from onnx_compress.passes.verify.recompute import RECOMPUTED

Change = Callable[[Model, Node, Random], Node | None]  # the node whose result is seen
_TRIES = 12


def _with_constant(
    slots: dict[str, int], change: Callable[[Array, Random], Array | None]
) -> Change:
    """One of the node's stored inputs is another."""

    def apply(model: Model, node: Node, rng: Random) -> Node | None:
        slot = slots.get(node.proto.op_type)
        array = model.constant(node.input(slot)) if slot is not None else None
        if array is None or slot is None or not array.size:
            return None
        other = change(array, rng)
        if other is None or np.array_equal(other, array):
            return None
        model.set_input(node, slot, model.add_constant(model.graph, other, "faulty"))
        return node

    return apply


def _with_attribute(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(model: Model, node: Node, _: Random) -> Node | None:
        before = node.attribute(name)
        after = None if before is None else change(before)
        if after is None or after == before:
            return None
        model.set_attribute(node, name, after)
        return node

    return apply


def _scaled(model: Model, node: Node, _: Random) -> Node | None:
    """Its result a little too large: as with a scale that is rounded too early."""
    integers = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QGemm")
    if node.proto.op_type in integers or node.proto.op_type.startswith("QLinear"):
        return None
    out, readers = node.output, list(node.output.uses)
    if out.exits or not readers:
        return None
    factor = model.add_constant(model.graph, np.asarray(np.float32(1.004)), "faulty")
    made = model.add_node(model.graph, "Mul", [out, factor])
    for reader, slot in readers:
        model.set_input(reader, slot, made)
    return made.producer


def _one_more(array: Array, _: Random) -> Array | None:
    limits = np.iinfo(array.dtype)
    return np.asarray(np.where(array < limits.max, array + 1, array - 1).astype(array.dtype))


def _flip(array: Array, rng: Random) -> Array | None:
    flat = array.copy().view(np.uint8).reshape(-1)
    picked = rng.sample(range(flat.size), max(flat.size // 20, 1))
    flat[picked] ^= np.uint8(0x60)
    return np.asarray(flat.view(array.dtype).reshape(array.shape))


def _turn(array: Array, _: Random) -> Array | None:
    return np.ascontiguousarray(array.T.reshape(array.shape)) if array.ndim > 1 else None


def _nibbles(array: Array, _: Random) -> Array | None:
    raw = array.view(np.uint8)
    return np.asarray(((raw >> 4) | (raw << 4)).view(array.dtype))


def _exchange(array: Array, rng: Random) -> Array | None:
    return swapped(array, rng, int(np.argmax(array.shape))) if array.size > 1 else None


def _double(array: Array, _: Random) -> Array | None:
    return np.asarray(array * array.dtype.type(2))


_CODES = {
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "GatherBlockQuantized": 0,
    "DequantizeLinear": 0,
}
_SCALES = {
    "MatMulIntegerToFloat": 3,
    "DynamicQuantizeMatMul": 2,
    "MatMulNBits": 2,
    "QLinearConv": 4,
    "QLinearMatMul": 4,
    "QGemm": 4,
    "GatherBlockQuantized": 2,
    "DequantizeLinear": 1,
}
KINDS: dict[str, Change] = {
    "codes read wrongly": _with_constant(_CODES, _flip),
    "zero point off by one": _with_constant(_CODES, _one_more),
    "transposed layout": _with_constant(_CODES, _turn),
    "swapped nibbles": _with_constant(_CODES, _nibbles),
    "swapped scales": _with_constant(_SCALES, _exchange),
    "scale of another": _with_constant(_SCALES, _double),
    "result off by 0.4%": _scaled,
    "rounds its input": _with_attribute("accuracy_level", lambda level: 4 if level < 4 else None),
}


def plant(case: Case, rng: Random) -> Outcome | None:
    """Let one node be run wrongly, and look; None where nothing that shows was found."""
    model = files.load(case.compressed)
    given = feeds(case.original)
    ran = optimized(model, given[0])
    nodes = [n for n in ran.model.graph.nodes if n.op in RECOMPUTED and n.op != "QuantizeLinear"]
    for _ in range(_TRIES if nodes else 0):
        node, kind = rng.choice(nodes), rng.choice([*KINDS])
        faulty = _faulty(ran, node, kind, rng)
        if faulty is None or not _shows(ran, faulty, given):
            continue
        found = executed(model, ran, given, partial(Faulty, faulty, node))
        wrong = [check.node for check in found.nodes if check.result == WRONG]
        said = "; ".join(map(str, found.findings[:2])) or "nothing"
        return Outcome(f"{kind} ({node.proto.op_type})", node.name, wrong == [node.name], said)
    return None


Fault = Callable[[Model], Node | None]


def _faulty(ran: Optimized, node: Node, kind: str, rng: Random) -> Fault | None:
    """What plants it in a copy of the optimized graph, always the same; None if it cannot be."""
    at, seed = list(ran.model.graph.nodes).index(node), rng.random()

    def apply(model: Model) -> Node | None:
        return KINDS[kind](model, list(model.graph.nodes)[at], Random(seed))

    return apply if apply(clone(ran.model)) is not None else None


def _shows(ran: Optimized, fault: Fault, given: Sequence[Feed]) -> bool:
    model = clone(ran.model)
    fault(model)
    try:
        names = [value.name for value in model.outputs()]
        result = open_session(model, optimize=False).run(given[0])
    except CompressError:
        return False
    return differ(names, [ran.outputs], [result])


class Faulty:
    """A runtime with a fault: runs another graph than it is given, and shows the same inputs."""

    def __init__(self, fault: Fault, node: Node, model: Model, taps: Sequence[Tap]) -> None:
        """`node`: the one of `model` that goes wrong."""
        broken = clone(model)
        twins = dict(zip(model.nodes(), broken.nodes(), strict=True))
        result = fault(broken)
        self._stored = {
            tap: array
            for tap in taps
            if not tap.made and (array := model.constant(tap.node.input(tap.slot))) is not None
        }
        self._back: dict[Tap, Tap] = {}
        for tap in taps:
            seen = result if tap.made and tap.node is node else twins[tap.node]
            if seen is not None and tap not in self._stored:
                self._back[Tap(seen, tap.slot, tap.made)] = tap
        self._watch = Watch(broken, list(self._back))

    def run_all(self, given: Sequence[Feed]) -> Iterator[tuple[list[Any], list[Seen]]]:
        """As Watch does."""
        for outputs, seen in self._watch.run_all(given):
            yield outputs, [self._shown(one) for one in seen]

    def _shown(self, seen: Seen) -> Seen:
        return {**{self._back[tap]: array for tap, array in seen.items()}, **self._stored}
