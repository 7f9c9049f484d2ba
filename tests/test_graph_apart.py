"""Weights that the runtime is handed as arrays: the same numbers as from a file, and no copies."""

import gc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto, load, to_bytes
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.runtime.session import _open

from graphs import parsed, value, view

N = 64  # N * N numbers are too many to stay in the message


def square(seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((N, N)).astype(dtype)


def from_file(model, feed):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return _open(to_bytes(model), options).run(None, feed)


BRANCHES = """(float[N,64] x, bool c) => (float[N,64] y, float[64,64] given) {
    a = MatMul(x, both)
    b = If (c) <
        then_branch = t () => (float[N,64] r) { r = MatMul(a, inside) },
        else_branch = e () => (float[N,64] s) { s = MatMul(a, both) }>
    y = Add(b, a)
    given = Identity(out) }"""


@pytest.mark.parametrize("taken", [True, False])
def test_weights_of_bodies_and_unused_ones(taken):
    stored = {name: square(at) for at, name in enumerate(("both", "inside", "out", "unused"))}
    model = view(BRANCHES, **stored)
    feed = {"x": square(9)[:3], "c": np.array(taken)}
    for found, expected in zip(Session(model).run(feed), from_file(model, feed), strict=True):
        assert np.array_equal(found, expected)


def test_one_that_is_given_out_as_it_is():
    model = view(
        "(float[N,64] x) => (float[N,64] y, float[64,64] w) { y = MatMul(x, w) }", w=square(0)
    )
    found = Session(model).run({"x": square(1)[:2]})
    assert np.array_equal(found[1], square(0))


@pytest.mark.parametrize("ir_version", [3, 8])
def test_one_that_may_be_overridden(ir_version):
    text = "(float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul(x, w) }"
    proto = parsed(text, 8, ir_version, w=square(0), idle=square(2))
    if ir_version < 4:
        proto.graph.input.append(helper.make_tensor_value_info("idle", 1, [N, N]))
    session = Session(from_proto(proto))
    x = np.eye(N, dtype=np.float32)
    assert np.array_equal(session.run({"x": x})[0], square(0))
    if ir_version < 4:  # there it is a constant all the same
        return
    assert np.array_equal(session.run({"x": x, "w": square(1)})[0], square(1))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int64", "bool"])
def test_types_of_numpy(dtype):
    array = (square(0) * 9).astype(dtype)
    model = view(f"(int64[1] at) => ({onnx_name(dtype)}[1,64] y) {{ y = Gather(w, at) }}", w=array)
    assert np.array_equal(Session(model).run({"at": np.array([5])})[0], array[5:6])


def onnx_name(dtype):
    return {"float64": "double"}.get(dtype, dtype)


@pytest.mark.parametrize("element", [TensorProto.BFLOAT16, TensorProto.UINT4])
def test_types_that_numpy_has_not(element):
    codes = np.random.default_rng(0).integers(0, 16, (256, N))
    proto = parsed(
        "(int64[1] at) => (float[1,64] y) { g = Gather(v, at)  y = Identity(g) }", 21, 10
    )
    packed = helper.make_tensor("w", element, codes.shape, codes.astype(np.float32).reshape(-1))
    raw = numpy_helper.from_array(numpy_helper.to_array(packed), "w")
    proto.graph.initializer.append(raw)
    if element == TensorProto.UINT4:
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "s"))
        node = helper.make_node("DequantizeLinear", ["w", "s"], ["v"])
    else:
        node = helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)
    proto.graph.node.insert(0, node)
    scale = 0.5 if element == TensorProto.UINT4 else 1.0
    found = Session(from_proto(proto)).run({"at": np.array([7])})[0]
    assert np.array_equal(found, codes[7:8] * scale)


def test_sessions_of_copies_share_what_is_alike():
    model = view("(float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  y = MatMul(a, v) }",
                 w=square(0), v=square(1))  # fmt: skip
    copy = clone(model)
    copy.set_constant(value(copy, "v"), square(2))
    one, other = Session(model), Session(copy)
    shared = [np.shares_memory(a, b) for a in one._weights for b in other._weights]
    assert sum(shared) == 1


def test_a_session_outlives_its_model():
    model = view("(int64[N] at) => (float[N,64] y) { y = Gather(w, at) }", w=square(0))
    session = Session(model)
    del model
    gc.collect()
    rubbish = [np.full((N, N), np.nan, np.float32) for _ in range(50)]
    found = session.run({"at": np.arange(N)})[0]
    del rubbish
    assert np.array_equal(found, square(0))


def test_axes_and_sizes_that_came_in_a_file_of_their_own(tmp_path):
    text = """(float[4,64] x) => (float[?,?] y) {
        m = MatMul(x, w)  r = Reshape(m, size)  least = ReduceMin<keepdims=0>(r, axes)
        y = Expand(least, out) }"""
    sizes = {"size": np.int64([2, 2, 64]), "axes": np.int64([-2]), "out": np.int64([3, 2, 64])}
    proto = parsed(text.replace("?,?", "3,2,64"), 20, 9, w=square(0), **sizes)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, convert_attribute=True)
    x = square(1)[:4]
    expected = (x @ square(0)).reshape(2, 2, N).min(1)
    assert np.allclose(Session(load(path)).run({"x": x})[0], expected, atol=1e-4)
