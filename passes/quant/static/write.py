"""QuantizeLinear and DequantizeLinear around units.

    weighted, own   x -> Q -> DQ -> Conv -> Q -> DQ -> ...     which ONNX Runtime fuses
    same            x -> Q -> MaxPool -> DQ -> ...             on the bytes themselves
    scaled          x -> Q -> DQ (scale * factor) -> ...
    product         x -> Q -> DQ -> Gemm -> ...                where nothing reads bytes of it

Relu and Clip go: bytes cannot leave the range that was cut out by them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.weights.path import is_stored, stored_floats
from onnx_compress.passes.quant.static.ranges import Step, of_constant
from onnx_compress.passes.quant.static.units import Unit


@dataclass(frozen=True)
class _Bytes:
    """The bytes of a value, and how they are read."""

    codes: Value
    step: Step


class Writer:
    """Puts units into integers, producers first."""

    def __init__(self, model: Model, steps: Mapping[Value, Step]) -> None:
        self.model, self.steps = model, dict(steps)
        self._bytes: dict[Value, _Bytes] = {}  # by the float value that is decoded from them
        self._decoded: dict[Value, Value] = {}
        self._parameters: dict[tuple[float, int], tuple[Value, Value]] = {}
        self.wanted: set[Value] = set()  # as bytes

    def write(self, units: Sequence[Unit]) -> None:
        """All of them. Each value that they read or give out must have a step, or be constant."""
        self.wanted = {value for unit in units for value in unit.inputs}
        for unit in units:
            WRITERS[unit.kind](self, unit)
        remove_unused(self.model, list(self._bytes))

    # ------------------------------------------------------------------------------- values

    def builder(self, unit: Unit) -> Builder:
        """Adds nodes beside a unit, called after it."""
        name = unit.node.name[-24:].lstrip("/._")
        return Builder(self.model, self.model.graph, name, unit.node)

    def read(self, b: Builder, value: Value) -> _Bytes:
        """The bytes of a value, made where they are not there yet."""
        if value not in self._bytes:
            array = stored_floats(self.model, value)
            if array is not None:
                step = of_constant(array)
                self._bytes[value] = _Bytes(b.constant(step.codes(array), "q"), step)
            else:
                step = self.steps[value]
                codes = b("QuantizeLinear", value, *self.parameters(step))
                self._bytes[value] = _Bytes(codes, step)
        return self._bytes[value]

    def decoded(self, b: Builder, value: Value) -> Value:
        """What a unit reads in place of a value."""
        kept = self.read(b, value)
        if value.producer is not None and value.producer.inputs[:1] == [kept.codes]:
            return value  # it is decoded already
        if value not in self._decoded:
            new = self.decode(b, kept)
            self._decoded[value] = new
        return self._decoded[value]

    def decode(self, b: Builder, kept: _Bytes) -> Value:
        """DequantizeLinear."""
        out = b("DequantizeLinear", kept.codes, *self.parameters(kept.step))
        self._bytes[out] = kept
        return out

    def parameters(self, step: Step) -> tuple[Value, Value]:
        """Scale and zero point, shared by all that have the same."""
        key = float(step.scale), int(step.zero)
        if key not in self._parameters:
            add, graph = self.model.add_constant, self.model.graph
            self._parameters[key] = (
                add(graph, np.asarray(step.scale), "scale"),
                add(graph, np.asarray(step.zero), "zero"),
            )
        return self._parameters[key]


def _computed(writer: Writer, unit: Unit) -> None:
    """Reads decoded values; what it gives out is made bytes at once."""
    model, node, b = writer.model, unit.node, writer.builder(unit)
    (end,) = unit.outputs
    for slot in unit.reads:
        value = node.input(slot)
        if value is None:
            raise InvalidError("an input is gone", where=node.name)
        model.set_input(node, slot, writer.decoded(b, value))
    if unit.kind == "product" and end not in writer.wanted:
        return
    step = writer.steps[end]
    codes = b("QuantizeLinear", None, *writer.parameters(step))
    out = writer.decode(b, _Bytes(codes, step))
    model.replace_uses(end, out)
    if codes.producer is not None:
        model.set_input(codes.producer, 0, node.output)
    for cut in reversed(unit.tail):
        remove_unused(model, [cut.output])


def _moved(writer: Writer, unit: Unit) -> None:
    """The same operator on bytes."""
    model, node, b = writer.model, unit.node, writer.builder(unit)
    source = node.inputs[0]
    if source is None:
        raise InvalidError("an input is gone", where=node.name)
    kept = writer.read(b, source)
    given = {a.name: node.attribute(a.name) for a in node.proto.attribute}
    first = b(node.op, kept.codes, *node.inputs[1:], name=node.proto.name, **given)
    made = b.more_outputs(first, len(node.outputs))
    for old, new in zip(node.outputs, made, strict=True):
        if old is not None:
            model.replace_uses(old, writer.decode(b, _Bytes(new, kept.step)))
    model.remove(node)


def _scaled(writer: Writer, unit: Unit) -> None:
    """The same bytes, read in another way."""
    b = writer.builder(unit)
    (source,), (end,) = unit.inputs, unit.outputs
    kept = writer.read(b, source)
    writer.model.replace_uses(
        end, writer.decode(b, _Bytes(kept.codes, kept.step.times(unit.factor)))
    )
    remove_unused(writer.model, [end])


WRITERS = {
    "weighted": _computed,
    "product": _computed,
    "own": _computed,
    "same": _moved,
    "scaled": _scaled,
}


def needed(model: Model, units: Sequence[Unit]) -> list[Value]:
    """The values whose ranges must be known."""
    follow = {v for unit in units if unit.kind in ("same", "scaled") for v in unit.outputs}
    made = {v for unit in units for v in unit.outputs}
    ranged = ("weighted", "product", "own")
    found = [v for unit in units if unit.kind in ranged for v in unit.outputs]
    found += [v for unit in units for v in unit.inputs if v not in made]
    return [v for v in dict.fromkeys(found) if v not in follow and not is_stored(model, v)]
