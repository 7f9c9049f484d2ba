"""A model that keeps tensors of all types wherever a model may keep some."""

import numpy as np
import onnx
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from graphs import parsed, weight

LARGE = 32  # LARGE x LARGE float32 values have a digest of their own


def values(seed: int, dtype=np.float32) -> np.ndarray:
    return weight(seed)[:LARGE, :LARGE].astype(dtype)


def typed(array: np.ndarray, name: str, kind: int = TensorProto.FLOAT) -> TensorProto:
    """In float_data, int32_data and the like."""
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def everywhere() -> ModelProto:
    """Tensors of a kilobyte and more in initializers, Constant nodes and nested branches."""
    model = parsed(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (bool c, float[N,32] x) => (float[N,32] y) {
            k = Constant()
            h = MatMul(x, k)
            m = MatMul(h, w)
            [outer] y = If (c) <
                then_branch = t () => (float[N,32] r) { r = MatMul(m, t) },
                else_branch = e () => (float[N,32] r) {
                    d = Constant<value = bool {1}>()
                    [inner] r = If (d) <
                        then_branch = et () => (float[N,32] s) { s = MatMul(m, w2) },
                        else_branch = ee () => (float[N,32] s) {
                            k2 = Constant()  s = MatMul(m, k2) }
                    >
                }
            >
        }""",
        w=values(0),
        small=np.float32([1, 2]),
    )
    outer = model.graph.node[3]
    then, other = (attribute.g for attribute in outer.attribute)
    inner_then, inner_other = (attribute.g for attribute in other.node[1].attribute)
    then.initializer.append(typed(values(1), "t"))
    inner_then.initializer.append(numpy_helper.from_array(values(2), "w2"))
    for graph, seed in ((model.graph, 3), (inner_other, 4)):
        constant = numpy_helper.from_array(values(seed))
        graph.node[0].attribute.append(helper.make_attribute("value", constant))
    packed = np.arange(-8, 8).repeat(150)
    for kind in ("INT4", "UINT4"):
        numbers = packed + 8 * (kind == "UINT4")
        model.graph.initializer.append(typed(numbers, kind, getattr(TensorProto, kind)))
    for kind in ("BFLOAT16", "FLOAT16", "FLOAT8E4M3FN", "INT8", "INT64", "DOUBLE", "BOOL"):
        number = getattr(TensorProto, kind)
        model.graph.initializer.append(typed(packed % 2, kind, number))
    text = [f"text {number} ä".encode() for number in range(200)]
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [200], text))
    part = helper.make_tensor("sparse", TensorProto.FLOAT, [150], list(range(150)))
    at = helper.make_tensor("", TensorProto.INT64, [150], list(range(150)))
    model.graph.sparse_initializer.append(SparseTensorProto(values=part, indices=at, dims=[20, 20]))
    onnx.checker.check_model(model)
    return model


def flip(tensor: TensorProto) -> None:
    """Change one bit of a tensor, wherever it keeps its numbers."""
    if tensor.HasField("raw_data"):
        data = bytearray(tensor.raw_data)
        data[len(data) // 2] ^= 1
        tensor.raw_data = bytes(data)
    elif tensor.string_data:
        tensor.string_data[0] += b"!"
    elif tensor.float_data:
        tensor.float_data[0] += 1
    elif tensor.int64_data:
        tensor.int64_data[0] ^= 1
    elif tensor.double_data:
        tensor.double_data[0] += 1
    else:
        tensor.int32_data[0] ^= 1
