"""Float layers between bytes, kept as they are.

    DQ -> Conv -> Q    ->    DQ -> Conv -> Max(., lowest) -> Q

ONNX Runtime makes bytes of the weight of the former by itself, with one scale for all channels.
A Max that does nothing keeps it from that; it is not optimized away.
"""

import numpy as np

from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLLOW = ("Relu", "Clip")  # that the runtime takes out before a QuantizeLinear
_LOWEST = float(np.finfo(np.float32).min)


def guard(model: Model) -> int:
    """Everywhere in the main graph; gives how many there were."""
    count = 0
    for node in [node for node in model.graph.nodes if node.op == "QuantizeLinear"]:
        value = node.inputs[0]
        if value is not None and _tempting(_behind(value)):
            b = Builder(model, model.graph, value.name[-24:].lstrip("/._"), node)
            kept = b("Max", value, b.constant(np.array(_LOWEST, np.float32), "lowest"))
            model.set_input(node, 0, kept)
            count += 1
    return count


def _behind(value: Value) -> Node | None:
    """What makes a value, before what only cuts it off."""
    made = value.producer
    while made is not None and made.op in _FOLLOW and made.inputs[0] is not None:
        made = made.inputs[0].producer
    return made


def _tempting(node: Node | None) -> bool:
    """Whether it is a float layer that reads bytes, over nothing or padding."""
    if node is None or node.op not in _LINEAR:
        return False
    source = node.inputs[0].producer if node.inputs[0] is not None else None
    while source is not None and source.op == "Pad" and source.inputs[0] is not None:
        source = source.inputs[0].producer
    weight = node.inputs[1].producer if node.inputs[1] is not None else None
    decoded = weight is not None and weight.op == "DequantizeLinear"
    return source is not None and source.op == "DequantizeLinear" and not decoded
