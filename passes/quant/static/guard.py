"""Layers kept from what ONNX Runtime would make of them, by a Max that does nothing.

    DQ -> Conv -> Q       ->    DQ -> Conv -> Max(., lowest) -> Q
    DQ -> Gemm -> Relu    ->    DQ -> Gemm -> Max(., lowest) -> Relu
    MaxPool -> Q          ->    MaxPool -> Max(., lowest) -> Q

Of a float layer between bytes it makes one of bytes, with one scale for all channels. A product of
bytes that gives floats it computes in floats, where a Relu or Clip follows. A QuantizeLinear it
moves in front of a MaxPool, which is 50 times slower on bytes whose channels do not come last. Max
is not optimized away.
"""

import numpy as np

from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PRODUCTS = ("Gemm", "MatMul")
_FOLLOW = ("Relu", "Clip")  # that the runtime takes out before a QuantizeLinear
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice")  # and those before it
_LOWEST = float(np.finfo(np.float32).min)


def guard(model: Model) -> int:
    """Everywhere in the main graph; gives how many there were."""
    count = 0
    for node in list(model.graph.nodes):
        value = node.input(0)
        tests = (_made_bytes, _cut_off, _pooled)
        if value is None or not any(test(node, value) for test in tests):
            continue
        b = Builder(model, model.graph, value.name[-24:].lstrip("/._"), node)
        kept = b("Max", value, b.constant(np.array(_LOWEST, np.float32), "lowest"))
        model.set_input(node, 0, kept)
        count += 1
    return count


def _made_bytes(node: Node, value: Value) -> bool:
    """Whether bytes are made of what a float layer gives that reads bytes."""
    made = _behind(value)
    return node.op == "QuantizeLinear" and made is not None and _reads(made) == (True, False)


def _pooled(node: Node, value: Value) -> bool:
    """Whether bytes are made of what a MaxPool of floats gives, moved about or cut off."""
    made = value.producer
    while made is not None and made.op in (*_FOLLOW, *_MOVES):
        source = made.input(0)
        made = source.producer if source is not None else None
    if node.op != "QuantizeLinear" or made is None or made.op != "MaxPool":
        return False
    source = made.input(0)
    return source is None or source.producer is None or source.producer.op != "DequantizeLinear"


def _cut_off(node: Node, value: Value) -> bool:
    """Whether this alone follows a product of bytes that gives floats."""
    made = value.producer
    alone = len(value.uses) == 1 and not value.exits
    if node.op not in _FOLLOW or made is None or made.op not in _PRODUCTS or not alone:
        return False
    return _reads(made) == (True, True)


def _behind(value: Value) -> Node | None:
    """What makes a value, before what only cuts it off."""
    made = value.producer
    while made is not None and made.op in _FOLLOW and made.inputs[0] is not None:
        made = made.inputs[0].producer
    return made


def _reads(node: Node) -> tuple[bool, bool]:
    """Whether a layer reads bytes, over nothing or padding, and whether its weight is of bytes."""
    if node.op not in _LINEAR:
        return False, False
    source = node.inputs[0].producer if node.inputs[0] is not None else None
    while source is not None and source.op == "Pad" and source.inputs[0] is not None:
        source = source.inputs[0].producer
    weight = node.inputs[1].producer if node.inputs[1] is not None else None
    decodes = "DequantizeLinear"
    return (
        source is not None and source.op == decodes,
        weight is not None and weight.op == decodes,
    )
