"""The numbers of a node whose inputs are constant, by onnx.reference."""

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.reference import ReferenceEvaluator

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node


def evaluate(model: Model, node: Node, inputs: list[Array | None]) -> list[Array] | None:
    """Outputs of a node; None if the reference has no answer or would give nothing finite."""
    proto = ModelProto(ir_version=model.ir_version)
    proto.opset_import.extend(model.shell.opset_import)
    made = proto.graph.node.add()
    made.CopyFrom(node.proto)
    del made.input[:], made.output[:]
    made.input.extend(f"i{slot}" if array is not None else "" for slot, array in enumerate(inputs))
    made.output.extend(f"o{slot}" for slot in range(len(node.outputs)))
    proto.graph.input.extend(_untyped(name) for name in made.input if name)
    proto.graph.output.extend(_untyped(name) for name in made.output)
    feeds = {f"i{slot}": array for slot, array in enumerate(inputs) if array is not None}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto).run(None, feeds)
    except Exception:  # the reference raises whatever numpy does; the node then stays as it is
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.dtype != object for array in arrays) else None


def _untyped(name: str) -> ValueInfoProto:
    info = ValueInfoProto(name=name)
    info.type.tensor_type.elem_type = TensorProto.UNDEFINED
    return info
