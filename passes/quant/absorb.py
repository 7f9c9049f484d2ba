"""A factor for each feature, taken over by what makes a value: no node is needed for it then.

    LayerNormalization(x, g, b) * f   ->   LayerNormalization(x, g f, b f)
    (x * g + b) * f                   ->   x * (g f) + (b f)

Where nothing else reads the value; also over Relu and its like. SmoothQuant (2211.10438) does so.
"""

from collections.abc import Collection

import numpy as np

from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.patterns import No

Place = tuple[Node, int, Value]  # a node, a slot, and the constant there
_NORMS = {  # where the vectors are that the last axis is multiplied by, and moved by
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "com.microsoft.SkipLayerNormalization": (2, 3),
    "com.microsoft.SkipSimplifiedLayerNormalization": (2,),
}
_HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity")  # f(a x) = a f(x) for a > 0


def absorbing(model: Model, value: Value, readers: Collection[Node], size: int) -> list[Place] | No:
    """Constants [size] along the last axis that are to be multiplied by the factor.

    `readers`: who reads the scaled value; if anybody else does, nothing can be done.
    """
    node = value.producer
    if value.exits or any(reader not in readers for reader in value.consumers):
        return No("something else reads it")
    if node is None or node.output is not value:
        return No("nothing makes it alone")
    if node.op in _NORMS:
        slots = [slot for slot in _NORMS[node.op] if node.input(slot) is not None]
        places = [place for slot in slots if (place := _vector(model, node, slot, size))]
        return places if len(places) == len(slots) else No("its scale is no vector of features")
    if node.op == "Mul":
        places = [place for slot in (0, 1) if (place := _vector(model, node, slot, size))]
        return places[:1] or No("it is multiplied by no vector of features")
    before, places = node.input(0), []
    if node.op == "Add":
        places = [place for slot in (0, 1) if (place := _vector(model, node, slot, size))][:1]
        before = node.input(1 - places[0][1]) if places else None
    elif node.op not in _HOMOGENEOUS:
        return No(f"{node.op} takes none over")
    if before is None:
        return No("it is added to what is no vector of features")
    found = absorbing(model, before, {node}, size)
    return found if isinstance(found, No) else [*found, *places]


def multiplied(model: Model, places: Collection[Place], factor: Array) -> None:
    """Put new constants there, once multiplied."""
    folded = Folded(model)
    for node, slot, value in places:
        array = np.asarray(folded.array(value))
        b = Builder(model, node.graph, value.name[-24:].lstrip("/._"), node)
        new = (array.astype(np.float64) * factor).astype(array.dtype)
        model.set_input(node, slot, b.constant(new, "smooth"))


def _vector(model: Model, node: Node, slot: int, size: int) -> Place | None:
    value = node.input(slot)
    array = Folded(model).array(value)
    if value is None or array is None or array.dtype.kind != "f":
        return None
    return (node, slot, value) if array.size == size and array.shape[-1:] == (size,) else None
