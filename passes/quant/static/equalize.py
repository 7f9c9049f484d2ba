"""Cross-layer equalization: channels of unlike ranges are made alike before they become bytes.

    Conv(W, b) -> Relu -> Conv(V)     ->     Conv(W / s, b / s) -> Relu -> Conv(V s)

Rows of weights have scales of their own, so W loses nothing: what is weighed is the one range of
the activation against the rows of V (evening.py), over the whole span of a factor (spans.py),
residual streams too. Factors are powers of two: numbers in float stay. All is undone unless outputs
come much nearer by it, on samples that ranges were not taken from: those are few, and tell little
gains from none no better than a coin. Source: Nagel et al., 1906.04721.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.passes.quant.absorb import multiplied
from onnx_compress.passes.quant.evening import Flow, Reader, evened_along
from onnx_compress.passes.quant.scaled import multiply
from onnx_compress.passes.quant.spans import Reading, Span, bias_of, find_spans
from onnx_compress.passes.quant.static.place import Placement, placement
from onnx_compress.passes.quant.static.spare import Sensitivity
from onnx_compress.passes.quant.static.units import Unit
from onnx_compress.passes.statistics import Ends, Reach, collect

_WORTH = 0.6  # of the error^2 of all bytes that must be left at most
_SAMPLES = 8  # that tell how far channels go


@dataclass(eq=False)
class _Equal:
    """One span; `places`: inputs of nodes that were changed, and what they were before."""

    span: Span
    scale: Array
    places: list[tuple[Node, int, Value]]


@dataclass
class Equalized:
    """What was done."""

    model: Model
    spans: list[_Equal] = field(default_factory=list)

    def settle(self, taken: Sequence[Unit]) -> None:
        """Take out what no value in bytes gains by."""
        kept = _in_bytes(taken)
        for each in self.spans:
            if kept.isdisjoint(each.span.values):
                self._undo(each)
            else:
                remove_unused(self.model, [old for *_, old in each.places])
        self.spans = [each for each in self.spans if not kept.isdisjoint(each.span.values)]

    def undo(self) -> None:
        """Take out all."""
        self.settle(())

    def notes(self) -> tuple[str, ...]:
        """For the report."""
        count = sum(len(each.span.makers) for each in self.spans)
        return (f"channels of {count} convolutions equalized with those that follow",) * bool(count)

    def _undo(self, each: _Equal) -> None:
        _multiply(each.span, 1 / each.scale)
        new = [node.input(slot) for node, slot, _ in each.places]
        for node, slot, old in each.places:
            self.model.set_input(node, slot, old)
        remove_unused(self.model, new)


def equalized(
    found: Placement, weights: Sequence[Weight], otherwise: Mapping[Use, str]
) -> tuple[Placement, Equalized]:
    """The same model, equalized, with its new ranges; or as it was.

    `weights`: those that may be changed. `otherwise`: how their uses are read if not in bytes.
    """
    model, taken = found.model, found.chosen()
    done = Equalized(model)
    spans = [s for s in find_spans(model, weights, found.shapes) if _flowing(s, taken)]
    if not spans or not found.held:
        return found, done
    try:
        seen = _seen(found, spans, taken)
    except CalibrationError:
        return found, done
    scales = [(span, scale) for span in spans if (scale := _scale(span, taken, seen)) is not None]
    if not scales:
        return found, done
    before = _error(found, taken)
    for span, scale in scales:
        _multiply(span, scale)
        makers = dict.fromkeys(span.makers)
        places = [place for w in makers if (place := bias_of(model, w)) is not None]
        multiplied(model, places, 1 / scale)
        done.spans.append(_Equal(span, scale, places))
    new = placement(model, weights, found.context, otherwise)
    if new is not None and _error(new, new.chosen()) <= _WORTH * before:
        return new, done
    done.undo()
    return found, done


def _error(found: Placement, taken: Sequence[Unit]) -> float:
    """error^2 of all units in bytes."""
    able = [unit for unit in taken if unit.kind in ("weighted", "product", "own")]
    return Sensitivity(found.model, found.steps, found.held, taken).square(able)


def _in_bytes(taken: Collection[Unit]) -> set[Value]:
    """Values whose range is theirs, in the order of the units."""
    moved = {v for unit in taken if unit.kind in ("same", "scaled") for v in unit.outputs}
    return {v for unit in taken for v in (*unit.inputs, *unit.outputs)} - moved


def _flowing(span: Span, taken: Sequence[Unit]) -> list[Value]:
    """Values of a span that become bytes."""
    known = _in_bytes(taken)
    return [v for v, channels in span.values.items() if channels is None and v in known]


def _source(span: Span, reading: Reading) -> Value:
    """What a reading reads, before its numbers were moved: one channel along axis 1."""
    value = reading.value
    while span.values[value] is not None:
        made = value.producer
        value = next(v for v in (made.inputs if made else ()) if v in span.values and v is not None)
    return value


def _seen(found: Placement, spans: Sequence[Span], taken: Sequence[Unit]) -> dict[Value, Ends]:
    values = {v: None for span in spans for v in _flowing(span, taken)}
    values |= {_source(span, reading): None for span in spans for reading in span.readings}
    requests = {
        v: Reach(Tap(v.producer, v.producer.outputs.index(v), made=True), axis=1)
        for v in values
        if v.producer is not None
    }
    fit = found.context.fit[:_SAMPLES]
    answers = collect(found.model, list(requests.values()), fit, threads=2)
    return {value: answers[request] for value, request in requests.items()}


def _scale(span: Span, taken: Sequence[Unit], seen: dict[Value, Ends]) -> Array | None:
    readers = {r: _reader(span, r, seen[_source(span, r)].square) for r in span.readings}
    flows = [
        Flow(seen[value], [readers[r] for r in span.seen_by(value)])
        for value in _flowing(span, taken)
        if span.seen_by(value)
    ]
    return evened_along(flows, list(readers.values())) if flows else None


def _reader(span: Span, reading: Reading, square: Array) -> Reader:
    """Columns by channel. What depthwise convolutions lose no factor changes."""
    matrix = reading.use.matrix(reading.weight.array())
    groups, rows, columns = matrix.shape
    taps, own = groups * columns // span.size, span.size // groups
    if groups == 1:
        order = np.argsort(reading.channels[0], kind="stable")
        return Reader(matrix[0][:, order].reshape(rows, span.size, taps), square)
    whole = np.zeros((groups, rows, span.size, taps), matrix.dtype)
    for at, part in enumerate(matrix):
        whole[at, :, at * own : (at + 1) * own] = part.reshape(rows, own, taps)
    power = square if own > 1 else np.zeros_like(square)
    return Reader(whole.reshape(groups * rows, span.size, taps), power, groups)


def _multiply(span: Span, scale: Array) -> None:
    """Columns by the scale, rows by what undoes it; biases are not here."""
    for weight in dict.fromkeys(span.makers):
        layout = weight.uses[0].layout
        multiply(weight, (1 / scale).reshape(layout.groups, layout.rows, 1))
    for reading in span.readings:
        multiply(reading.weight, scale[reading.channels][:, None])
