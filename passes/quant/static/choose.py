"""Which units run in integers: a minimum cut of what they gain and what it costs to turn numbers.

    float32 -> [QuantizeLinear] -> units in integers -> [DequantizeLinear] -> float32

A small layer between two that gain is better left between them; one far from others is not worth
the two ends. All costs are in products of float32 numbers, from the target.

ONNX Runtime makes bytes of the weight of a float convolution between DequantizeLinear and
QuantizeLinear by itself, with one scale for all of it: such a one is taken too, with better scales.

A product of matrices is weighed against what it would be else, one of bytes that are made at run
time, say, and has to save a twentieth: ranges of samples are worse than those of the run.
"""

from collections.abc import Collection, Mapping, Sequence
from math import inf, prod

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.weights.path import is_stored
from onnx_compress.passes.quant.static.units import Unit, way_back
from onnx_compress.passes.solvers.cut import minimum_cut
from onnx_compress.passes.target import Target

_ENDS = 4  # operators that come with it: the order of channels changes, what was fused is not
_PICTURE = 4  # axes of what has such an order
_WORTH = 1.05  # times faster a product has to be
_SLOW_DEPTHWISE = 3.0  # products of float32 in the time of one, where each reads its own channel


def chosen(
    model: Model,
    gains: Mapping[Unit, float],
    shapes: Shapes,
    target: Target,
    barred: Collection[Node],
) -> list[Unit]:
    """Those that are faster together; `barred` nodes are to stay float."""
    forced: set[Node] = set()
    free = {unit: inf if unit.node in barred else saved for unit, saved in gains.items()}
    while True:
        taken = _cheapest(model, free, shapes, target, forced)
        between = {unit.node for unit in enclosed(list(free), taken) if unit.node not in barred}
        if between <= forced:
            return taken
        forced |= between


def enclosed(units: Sequence[Unit], taken: Sequence[Unit]) -> list[Unit]:
    """Float convolutions that read bytes, and whose outputs become bytes."""
    inside = set(taken)
    made = {value for unit in taken for value in unit.outputs}
    read = {value for unit in taken for value in unit.inputs}
    return [
        unit
        for unit in units
        if unit.kind == "weighted"
        and unit not in inside
        and unit.inputs[0] in made | read
        and unit.outputs[0] in read
    ]


def _cheapest(
    model: Model,
    free: Mapping[Unit, float],
    shapes: Shapes,
    target: Target,
    forced: Collection[Node],
) -> list[Unit]:
    units, gains = list(free), list(free.values())
    number = {unit.node: at for at, unit in enumerate(units)}
    number |= {node: at for at, unit in enumerate(units) for node in unit.tail}
    one = [0.0 if g == inf else max(-g, 0.0) for g in gains]
    other = [0.0 if g == inf else max(g, 0.0) for g in gains]
    outside = len(units)  # everything that is no unit is float
    one, other = [*one, inf], [*other, 0.0]
    for at, unit in enumerate(units):
        one[at] = inf if gains[at] == inf else one[at]
        other[at] = inf if unit.node in forced and gains[at] < inf else other[at]
    arcs: list[tuple[int, int, float]] = []
    for value in dict.fromkeys(v for unit in units for v in (*unit.inputs, *unit.outputs)):
        if is_stored(model, value):
            continue
        shape = shapes.shape(value) or (1 << 20, 1, 1, 1)
        ends = _ENDS if len(shape) == _PICTURE else 1
        cost = target.conversion * prod(shape) + ends * target.start
        made = number.get(value.producer, outside) if value.producer else outside
        readers = {number.get(node, outside) for node, _ in value.uses}
        readers |= {outside} if value.exits else set()
        # what is turned is so once for all readers: a thing between pays for them
        bytes_out, floats_out = len(one), len(one) + 1
        one += [0.0, 0.0]
        other += [0.0, 0.0]
        either = made < outside and units[made].kind == "product"  # turned only if both are wanted
        arcs += [(floats_out if either else made, bytes_out, cost), (floats_out, made, cost)]
        for reader in sorted(readers - {made}):
            arcs += [(bytes_out, reader, inf), (reader, floats_out, inf)]
    for at, unit in enumerate(units):
        if unit.node.op == "MaxPool":  # it is slow where one of these is float
            arcs += [(number.get(node, outside), at, inf) for node in way_back(unit.node)]
    side = minimum_cut(one, other, arcs)
    return [unit for unit, taken in zip(units, side, strict=False) if taken]


def gain(unit: Unit, shapes: Shapes, target: Target) -> float:
    """Products of float32 that bytes save; infinite where the target has none."""
    if unit.weight is None:
        start = target.start if unit.kind == "own" else 0.0
        return unit.gain * sum(_size(value, shapes) for value in unit.outputs) - start
    (use,) = unit.weight.uses
    cost = macs(use.node, shapes) or 0
    layout = use.layout
    if unit.kind == "product":
        m = _size(use.node.input(0), shapes) // max(layout.columns, 1)
        sizes = layout.columns, layout.rows, m
        ratio = target.product_speed("static", *sizes)
        now = target.product_speed(unit.otherwise, *sizes) or 1.0
        if ratio is None:
            return inf
        start = 0.0 if unit.otherwise == "dynamic" else target.start
        whole = cost + target.reading * layout.columns * layout.rows
        return whole * (1 / now - _WORTH / ratio) - start
    window = prod(layout.shape[2:])
    channels = layout.columns // max(window, 1)
    ratio = target.convolution_speed("static", channels, window, layout.rows)
    if ratio is None:
        return inf
    slow = _SLOW_DEPTHWISE if layout.rows == 1 and layout.groups > 1 else 1.0
    return cost * slow * (1 - 1 / ratio) - target.start


def _size(value: Value | None, shapes: Shapes) -> int:
    return prod(shapes.shape(value) or (0,))
