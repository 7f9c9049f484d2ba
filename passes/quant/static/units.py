"""Units: what ONNX Runtime runs as one operator of integers.

    weighted   Conv                           sums in int32, a range of its own
    product    MatMul, Gemm                   likewise; gives floats where nothing reads bytes
    own        Add, Mul, Sigmoid, Concat ...  a range of its own
    same       MaxPool, Reshape, Slice ...    moves bytes: its range is that of its input
    scaled     Mul, Div by one number         nothing is left of it but another scale

A Relu, Clip or Identity behind a unit of the first kinds is a part of it: its range says all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.patterns import No, sole_consumer
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms.static import BIAS
from onnx_compress.ir.weights.path import is_stored, stored_floats
from onnx_compress.passes.quant.static.products import Gemm, gemm

_FLOAT = 1  # TensorProto.FLOAT
_CUTS = ("Relu", "Clip")
_UNLIKE = 16  # times as large: a step is then 3 % of the smallest, or 6 with both signs
_PASSED = (*_CUTS, "Identity", "MaxPool", "Add", "Concat")


@dataclass(frozen=True, eq=False)
class Unit:
    """`reads`: slots of values that become bytes. `gain`: of a run in bytes, in products of float32
    numbers for each number that it gives out. `weight`: of a weighted one. `factor`: of a scaled.
    `gemm`: what a product is written as, if not as it is. `otherwise`: how its weight is read if it
    is no unit.
    """

    kind: str
    node: Node
    reads: tuple[int, ...]
    gain: float
    tail: tuple[Node, ...] = ()
    weight: Weight | None = None
    factor: float = 1.0
    gemm: Gemm | None = None
    otherwise: str = "codec"

    @property
    def inputs(self) -> list[Value]:
        """What becomes bytes."""
        return [v for slot in self.reads if (v := self.node.input(slot)) is not None]

    @property
    def outputs(self) -> list[Value]:
        """What it gives out."""
        return [v for v in (self.tail[-1] if self.tail else self.node).outputs if v is not None]


Fits = Callable[[Model, Node, Shapes], bool]
Prices = Mapping[str, float]  # what operators of bytes save for each number: of the target
Gain = Callable[[Node, Shapes, Prices], float]


@dataclass(frozen=True)
class _Rule:
    kind: str
    gain: Gain
    fits: Fits
    every: bool = False  # input is data, not the first alone


def _always(_: Model, __: Node, ___: Shapes) -> bool:
    return True


def _image(_: Model, node: Node, shapes: Shapes) -> bool:
    shape = shapes.shape(node.input(0))
    return shape is not None and len(shape) == 4 and not node.attribute("ceil_mode", 0)


def _max_pool(_: Model, node: Node, __: Shapes) -> bool:
    """Behind a convolution: elsewhere bytes do not have channels last, and the runtime is slow."""
    return sum(value is not None for value in node.outputs) == 1 and bool(way_back(node))


def way_back(node: Node) -> list[Node]:
    """What stands between a node and the convolution in front of it, with that; else nothing."""
    found: list[Node] = []
    value = node.input(0)
    while value is not None and value.producer is not None:
        found.append(value.producer)
        if value.producer.op == "Conv":
            return found
        value = value.producer.input(0) if value.producer.op in _PASSED else None
    return []


def _constant_rest(model: Model, node: Node, _: Shapes) -> bool:
    return all(v is None or model.tensor(v) is not None for v in node.inputs[1:])


def _nearest(_: Model, node: Node, __: Shapes) -> bool:
    return bool(node.attribute("mode", "nearest") == "nearest")


def _two(model: Model, node: Node, shapes: Shapes) -> bool:
    """Two computed tensors, or one and a constant."""
    return any(not is_stored(model, value) for value in node.inputs if value)


def _factors(model: Model, node: Node, shapes: Shapes) -> bool:
    """Likewise, if bytes hold each factor of a constant; those of smoothing they do not."""
    for value in node.inputs:
        array = stored_floats(model, value)
        sizes = np.abs(array[array != 0]) if array is not None else np.empty(0)
        if sizes.size and sizes.max() > _UNLIKE * sizes.min():
            return False
    return _two(model, node, shapes)


def _plain(node: Node, _: Shapes, prices: Prices) -> float:
    return prices.get(node.op, 0.0)


def _spread(node: Node, shapes: Shapes, prices: Prices) -> float:
    """Of Mul: one number for a whole channel or row is slow to read as a byte."""
    sizes = [prod(shapes.shape(value) or (1,)) for value in node.inputs]
    spread = prices.get("spread", 0.0) if min(sizes) < max(sizes) else 0.0
    return prices.get(node.op, 0.0) + spread


def _window(node: Node, _: Shapes, prices: Prices) -> float:
    """Of AveragePool, which the runtime computes number by number."""
    taps = float(prod(node.attribute("kernel_shape", (1,))))
    return prices.get(node.op, 0.0) + prices.get("tap", 0.0) * taps


def _moved(_: Node, __: Shapes, prices: Prices) -> float:
    return prices.get("moved", 0.0)


def _nothing(_: Node, __: Shapes, ___: Prices) -> float:
    return 0.0


_RULES: Mapping[str, _Rule] = {
    "Add": _Rule("own", _plain, _two, every=True),
    "Mul": _Rule("own", _spread, _factors, every=True),
    "Sigmoid": _Rule("own", _plain, _always),
    "LeakyRelu": _Rule("own", _plain, _always),
    "GlobalAveragePool": _Rule("own", _plain, _image),
    "AveragePool": _Rule("own", _window, _image),
    "Concat": _Rule("own", _plain, _always, every=True),
    "MaxPool": _Rule("same", _nothing, _max_pool),
    "Reshape": _Rule("same", _nothing, _always),
    "Flatten": _Rule("same", _nothing, _always),
    "Squeeze": _Rule("same", _nothing, _always),
    "Unsqueeze": _Rule("same", _nothing, _always),
    "Identity": _Rule("same", _nothing, _always),
    "Transpose": _Rule("same", _moved, _always),
    "Slice": _Rule("same", _moved, _always),
    "Split": _Rule("same", _moved, _always),
    "DepthToSpace": _Rule("same", _moved, _always),
    "SpaceToDepth": _Rule("same", _moved, _always),
    "Resize": _Rule("same", _moved, _nearest),
}


class Units:
    """Finds the units of a model.

    `weights`: by node, those of convolutions and products; `otherwise`: how their uses are read if
    they are no units. `types`: as they are for all inputs.
    """

    def __init__(
        self,
        model: Model,
        weights: Mapping[Node, Weight],
        shapes: Shapes,
        prices: Prices,
        otherwise: Mapping[Use, str],
    ) -> None:
        self.model, self.weights, self.shapes, self.prices = model, weights, shapes, prices
        self.otherwise = otherwise
        self.types = Shapes(model).types

    def found(self) -> list[Unit]:
        """All of the main graph, in its order."""
        found: list[Unit] = []
        tails: set[Node] = set()
        for node in self.model.graph.sorted():
            unit = self._unit(node) if node not in tails else None
            if unit is not None and all(_float(value, self.shapes) for value in unit.outputs):
                found.append(unit)
                tails.update(unit.tail)
        return found

    def _unit(self, node: Node) -> Unit | None:
        model = self.model
        rule = _RULES.get(node.op)
        if node in self.weights:
            return self._weighted(node, self.weights[node])
        scaled = _factor(model, node)
        if scaled is not None:
            slot, factor = scaled
            return Unit("scaled", node, (slot,), self.prices.get("scaled", 0.0), factor=factor)
        if rule is None or not rule.fits(model, node, self.shapes):
            return None
        reads = tuple(range(len(node.inputs))) if rule.every else (0,)
        read = [node.input(slot) for slot in reads]
        if any(value is None for value in read) or all(is_stored(model, v) for v in read):
            return None
        tail = _tail(model, node) if rule.kind == "own" else ()
        return Unit(rule.kind, node, reads, rule.gain(node, self.shapes, self.prices), tail)

    def _weighted(self, node: Node, weight: Weight) -> Unit | None:
        model, (use,) = self.model, weight.uses
        if not use.multiplied:
            bias = node.input(BIAS)
            if bias is not None and not is_stored(model, bias):
                return None
            return Unit("weighted", node, (0,), 0, _tail(model, node), weight)
        if len(self.shapes.shape(node.input(0)) or ()) < 2:
            return None
        form = gemm(model, use, self.types)
        behind = form.behind if form is not None else ()
        tail = (*behind, *_tail(model, behind[-1] if behind else node))
        how = self.otherwise.get(use, "codec")
        return Unit("product", node, (0,), 0, tail, weight, gemm=form, otherwise=how)


def _float(value: Value, shapes: Shapes) -> bool:
    known = shapes.types.get(value)
    return known is not None and known.element == _FLOAT


def _factor(model: Model, node: Node) -> tuple[int, float] | None:
    """The slot of what is multiplied by one positive number, and the number."""
    if node.op not in ("Mul", "Div"):
        return None
    for slot in (1,) if node.op == "Div" else (1, 0):
        array = stored_floats(model, node.input(slot))
        if array is None or array.size != 1 or array.ndim > 1:
            continue
        if is_stored(model, node.input(1 - slot)):
            continue
        number = float(array.reshape(-1)[0])
        factor = 1 / number if node.op == "Div" and number else number
        if 1e-6 < factor < 1e6:
            return 1 - slot, factor
    return None


def _tail(model: Model, node: Node) -> tuple[Node, ...]:
    """Relu, Clip and Identity that nothing else sees the input of, and that keep zero."""
    found: list[Node] = []
    at = node
    while True:
        cut = sole_consumer(at.output, *_CUTS, "Identity")
        if isinstance(cut, No) or not _keeps_zero(model, cut):
            return tuple(found)
        found.append(cut)
        at = cut


def _keeps_zero(model: Model, node: Node) -> bool:
    if node.op in ("Relu", "Identity"):
        return True
    low, high = (_bound(model, node, slot, name) for slot, name in ((1, "min"), (2, "max")))
    return low is not None and high is not None and low <= 0 <= high


def _bound(model: Model, node: Node, slot: int, name: str) -> float | None:
    """A bound of Clip; None where it is computed."""
    if node.input(slot) is None:
        return float(node.attribute(name, -np.inf if slot == 1 else np.inf))
    array = stored_floats(model, node.input(slot))
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def convolution(weight: Weight) -> Use | None:
    """The one convolution in the main graph that reads a weight of float32, if that is all."""
    if not weight.sole_use or weight.dtype != "FLOAT":
        return None
    (use,) = weight.uses
    fine = use.node.op == "Conv" and use.node.graph is weight.model.graph and not use.path.casts
    return use if fine else None
