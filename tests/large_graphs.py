"""Graphs of thousands of nodes."""

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnx_compress.ir.graph import Model, from_proto
from onnx_compress.ir.graph.invariants import check
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold

WIDE = 10_000


def empty(*outputs: str, given: str = "x") -> ModelProto:
    proto = ModelProto(ir_version=8)
    proto.opset_import.add(version=17)
    proto.graph.name = "g"
    proto.graph.input.append(helper.make_tensor_value_info(given, 1, [2]))
    proto.graph.output.extend(helper.make_tensor_value_info(name, 1, [2]) for name in outputs)
    return proto


def add(proto: ModelProto, op: str, inputs: list[str], output: str) -> None:
    proto.graph.node.add(op_type=op, input=inputs, output=[output])


def store(proto: ModelProto, name: str, array: np.ndarray) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(array, name))


# --------------------------------------------------------------------------------------- depth


def folded(proto: ModelProto) -> Model:
    model = from_proto(proto)
    Fold().run(model, Context(targets.load("avx2"), {}))
    check(model)
    return model
