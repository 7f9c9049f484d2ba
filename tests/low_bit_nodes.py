"""Models of one low-bit node each, for the tests of what the runtime executes."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import Model, from_proto
from onnx_compress.ir.runtime.optimized import optimized
from onnx_compress.passes.verify.executed import Executed, executed

RNG = np.random.default_rng(5)
F32 = np.float32
MS = "com.microsoft"


def codes(dtype, *shape: int, low: int | None = None, high: int | None = None) -> np.ndarray:
    info = np.iinfo(dtype)
    bounds = info.min if low is None else low, info.max if high is None else high
    return RNG.integers(bounds[0], bounds[1] + 1, shape).astype(dtype)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F32)


def scales(*shape: int) -> np.ndarray:
    return (0.001 + 0.02 * RNG.random(shape)).astype(F32)


def scalar(number: float, dtype=F32) -> np.ndarray:
    return np.array(number, dtype)


def narrow(array: np.ndarray, kind: int, name: str) -> TensorProto:
    """Codes of less than a byte."""
    return helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())


def one_node(
    op: str, inputs: list, given: int = 1, domain: str = "", opset: int = 21, **attributes
):
    """A model of a node whose first `given` inputs are fed, and the feed. Texts are left out."""
    stored, ports, names, feed = [], [], [], {}
    for at, thing in enumerate(inputs):
        if thing is None:
            names.append("")
            continue
        name = thing.name if isinstance(thing, TensorProto) else f"i{at}"
        names.append(name)
        if isinstance(thing, TensorProto):
            stored.append(thing)
        elif at < given:
            kind = helper.np_dtype_to_tensor_dtype(thing.dtype)
            ports.append(helper.make_tensor_value_info(name, kind, thing.shape))
            feed[name] = thing
        else:
            stored.append(numpy_helper.from_array(thing, name))
    outputs = ["y", "s", "z"][: 3 if op == "DynamicQuantizeLinear" else 1]
    untyped = [helper.make_empty_tensor_value_info(name) for name in outputs]
    node = helper.make_node(op, names, outputs, "the node", domain=domain, **attributes)
    graph = helper.make_graph([node], "g", ports, untyped, stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    proto: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return from_proto(proto), feed


def checked(model: Model, *feeds, watching=None) -> Executed:
    """What is found when a model is run and recomputed."""
    ran = optimized(model, feeds[0])
    return executed(model, ran, feeds, watching) if watching else executed(model, ran, feeds)


def packed(array: np.ndarray, bits: int) -> np.ndarray:
    """Along the last axis, the first code in the low bits."""
    parts = array.reshape(*array.shape[:-1], -1, 8 // bits).astype(np.uint8)
    return (parts << (np.arange(8 // bits) * bits).astype(np.uint8)).sum(-1).astype(np.uint8)


def blocks(bits: int, size: int, level: int, zeros: bool, columns: int = 96, rows: int = 24):
    """MatMulNBits."""
    count = -(-columns // size)
    weights = packed(RNG.integers(0, 1 << bits, (rows, count, size)), bits)
    points = RNG.integers(0, 1 << bits, (rows, count + -count % (8 // bits)))
    inputs = [floats(5, columns), weights, scales(rows, count).reshape(-1)]
    inputs += [packed(points, bits).reshape(-1)] if zeros else []
    return one_node(
        "MatMulNBits",
        inputs,
        domain=MS,
        K=columns,
        N=rows,
        bits=bits,
        block_size=size,
        accuracy_level=level,
    )


def _qlinear_matmul(kind, per_column: bool):
    columns = 10 if per_column else ()
    shape = (columns,) if per_column else ()
    b_zero = np.zeros(shape, np.int8)
    inputs = [codes(kind, 7, 40), scalar(0.02), scalar(5, kind), codes(np.int8, 40, 10, low=-63)]
    inputs[3] = np.clip(inputs[3], -63, 63)
    return one_node(
        "QLinearMatMul",
        [*inputs, scales(*shape), b_zero, scalar(0.4), scalar(11, kind)],
    )


def _qlinear_conv(group: int = 1, kind=np.uint8, bias: bool = True, **attributes):
    weights = codes(np.int8, 8, 8 // group, 3, 3, low=-63, high=63)
    inputs = [codes(kind, 2, 8, 9, 9), scalar(0.02), scalar(7, kind), weights, scales(8)]
    inputs += [np.zeros(8, np.int8), scalar(0.2), scalar(3, kind)]
    inputs += [codes(np.int32, 8, low=-5000, high=5000)] if bias else []
    return one_node("QLinearConv", inputs, group=group, **attributes)


def _two(op: str):
    inputs = [codes(np.uint8, 3, 20), scalar(0.03), scalar(120, np.uint8)]
    inputs += [codes(np.uint8, 3, 20), scalar(0.02), scalar(99, np.uint8)]
    return one_node(op, [*inputs, scalar(0.05), scalar(128, np.uint8)], domain=MS)


def _one(op: str, x: np.ndarray, y_scale: float, **attributes):
    inputs = [x, scalar(0.05), scalar(120, np.uint8), scalar(y_scale), scalar(3, np.uint8)]
    return one_node(op, inputs, domain=MS, **attributes)


INT4 = narrow(codes(np.int8, 32, 6, low=-8, high=7), TensorProto.INT4, "q")
NODES = {
    "QuantizeLinear": lambda: one_node(
        "QuantizeLinear", [10 * floats(50, 7), scalar(0.037), scalar(3, np.uint8)]
    ),
    "QuantizeLinear of ties": lambda: one_node(
        "QuantizeLinear", [np.arange(-300, 300, dtype=F32) / 2, scalar(1), scalar(0, np.int8)]
    ),
    "QuantizeLinear along an axis": lambda: one_node(
        "QuantizeLinear",
        [10 * floats(4, 6, 3), scales(6), codes(np.int8, 6, low=-9, high=9)],
        axis=1,
    ),
    "DynamicQuantizeLinear": lambda: one_node("DynamicQuantizeLinear", [floats(20, 9)]),
    "DynamicQuantizeLinear of zeros": lambda: one_node(
        "DynamicQuantizeLinear", [np.zeros((2, 3), F32)]
    ),
    "DequantizeLinear": lambda: one_node(
        "DequantizeLinear", [codes(np.int8, 9, 5), scales(5), codes(np.int8, 5)], axis=1
    ),
    "DequantizeLinear of one": lambda: one_node(
        "DequantizeLinear", [np.array(7, np.int8), scalar(0.5), scalar(3, np.int8)]
    ),
    "DequantizeLinear of int32": lambda: one_node(
        "DequantizeLinear", [codes(np.int32, 9, low=-999, high=999), scalar(0.5)]
    ),
    "MatMulInteger": lambda: one_node(
        "MatMulInteger",
        [codes(np.uint8, 3, 6, 33), codes(np.int8, 33, 7, low=-63, high=63), scalar(9, np.uint8)],
    ),
    "MatMulInteger signed": lambda: one_node(
        "MatMulInteger",
        [codes(np.int8, 6, 33), codes(np.int8, 33, 7), scalar(-9, np.int8), codes(np.int8, 7)],
    ),
    "MatMulInteger unsigned": lambda: one_node(
        "MatMulInteger",
        [codes(np.uint8, 6, 33), codes(np.uint8, 33, 7), scalar(9, np.uint8), codes(np.uint8, 7)],
    ),
    "ConvInteger": lambda: one_node(
        "ConvInteger",
        [codes(np.uint8, 2, 4, 9, 8), codes(np.uint8, 6, 2, 3, 3), scalar(7, np.uint8)],
        group=2,
        pads=[1, 0, 1, 2],
        strides=[2, 1],
    ),
    "QLinearMatMul": lambda: _qlinear_matmul(np.uint8, False),
    "QLinearMatMul per column": lambda: _qlinear_matmul(np.uint8, True),
    "QLinearMatMul signed": lambda: _qlinear_matmul(np.int8, False),
    "QLinearConv": lambda: _qlinear_conv(pads=[1, 1, 1, 1]),
    "QLinearConv in groups": lambda: _qlinear_conv(2, dilations=[2, 1], auto_pad="VALID"),
    "QLinearConv of each channel": lambda: _qlinear_conv(8, bias=False, strides=[2, 2]),
    "QLinearConv signed": lambda: _qlinear_conv(
        kind=np.int8, auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "MatMulIntegerToFloat": lambda: one_node(
        "MatMulIntegerToFloat",
        [
            codes(np.uint8, 5, 24),
            codes(np.int8, 24, 9, low=-63, high=63),
            scalar(0.02),
            scales(9),
            scalar(4, np.uint8),
            None,
            floats(9),
        ],
        domain=MS,
    ),
    "DynamicQuantizeMatMul": lambda: one_node(
        "DynamicQuantizeMatMul",
        [floats(5, 24), codes(np.int8, 24, 9, low=-63, high=63), scales(9)],
        domain=MS,
    ),
    "QGemm": lambda: one_node(
        "QGemm",
        [
            codes(np.uint8, 5, 24),
            scalar(0.02),
            scalar(4, np.uint8),
            codes(np.int8, 9, 24, low=-63, high=63),
            scales(9),
            np.zeros(9, np.int8),
            codes(np.int32, 9, low=-500, high=500),
            scalar(0.3),
            scalar(8, np.uint8),
        ],
        domain=MS,
        transB=1,
    ),
    "GatherBlockQuantized": lambda: one_node(
        "GatherBlockQuantized",
        [
            narrow(codes(np.uint8, 12, 64, low=0, high=15), TensorProto.UINT4, "q"),
            np.array([3, 0, 11, 3]),
            scales(12, 2),
            narrow(codes(np.uint8, 12, 2, low=0, high=15), TensorProto.UINT4, "z"),
        ],
        given=2,
        domain=MS,
        block_size=32,
        quantize_axis=1,
    ),
    "QLinearAdd": lambda: _two("QLinearAdd"),
    "QLinearMul": lambda: _two("QLinearMul"),
    "QLinearSigmoid": lambda: _one("QLinearSigmoid", codes(np.uint8, 300), 1 / 256),
    "QLinearLeakyRelu": lambda: _one("QLinearLeakyRelu", codes(np.uint8, 300), 0.05, alpha=0.1),
    "QLinearGlobalAveragePool": lambda: _one(
        "QLinearGlobalAveragePool", codes(np.uint8, 2, 5, 7, 7), 0.04
    ),
}
