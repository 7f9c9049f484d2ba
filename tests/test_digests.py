"""Digests of weights: what they are over."""

import base64
import hashlib

import numpy as np
import onnx
from digested import LARGE, everywhere, flip, values
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.ir.graph.digests import changed, digests, stamp

from graphs import parsed, product, weight


def sha(kind: str, shape, data: bytes) -> str:
    """As the module documents it."""
    dims = ",".join(str(dim) for dim in shape)
    found = hashlib.sha256(f"{kind} {dims}\n".encode() + data).digest()
    return base64.b64encode(found).decode().rstrip("=")


def of_tensor(tensor: TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    kind = TensorProto.DataType.Name(tensor.data_type)
    return sha(kind, tensor.dims, numpy_helper.from_array(array).raw_data)


INSIDE = {
    "k": 3,
    "w": 0,
    "outer/then_branch/t": 1,
    "outer/else_branch/inner/then_branch/w2": 2,
    "outer/else_branch/inner/else_branch/k2": 4,
}


def test_each_large_tensor_has_the_digest_that_is_documented():
    model = everywhere()
    expected = {
        name: sha("FLOAT", (LARGE, LARGE), values(n).tobytes()) for name, n in INSIDE.items()
    }
    for tensor in model.graph.initializer:
        if tensor.name not in ("w", "small", "text"):
            expected[tensor.name] = of_tensor(tensor)
    found = digests(from_proto(model))
    assert {name: found[name] for name in expected} == expected
    assert set(found) - set(expected) == {"", "text", "sparse"}


def test_a_digest_says_something_about_type_shape_and_every_byte():
    array = values(0)
    other = array.copy()
    other[-1, -1] += 1
    seen = set()
    for data in (array, array.T, array.reshape(-1), array.view(np.int32), other):
        model = parsed("(float[N] x) => (float[N] y) { y = Relu(x) }", w=np.ascontiguousarray(data))
        seen.add(digests(from_proto(model))["w"])
    assert len(seen) == 5


def test_only_tensors_of_a_kilobyte_have_their_own():
    arrays = {"a": np.ones(255, np.float32), "b": np.ones(256, np.float32), "c": np.float32(1)}
    model = parsed("(float[N] x) => (float[N] y) { y = Relu(x) }", **arrays)
    assert set(digests(from_proto(model))) == {"b", ""}


def test_the_one_of_all_small_tensors_does_not_depend_on_their_order():
    model = everywhere()
    before = digests(from_proto(model))[""]
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors[::-1])
    assert digests(from_proto(model))[""] == before


def test_they_are_the_same_wherever_the_data_are(tmp_path):
    raw, kept = everywhere(), everywhere()
    for number, tensor in enumerate(raw.graph.initializer):
        if tensor.data_type != TensorProto.STRING:
            raw.graph.initializer[number].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
            )
    expected = digests(from_proto(kept))
    assert raw != kept
    assert digests(from_proto(raw)) == expected
    for at, model in enumerate((raw, kept)):
        for external in (False, True):
            save(from_proto(model), tmp_path / f"{at}.onnx", external)
            assert digests(load(tmp_path / f"{at}.onnx")) == expected
        beside = ModelProto()
        beside.CopyFrom(model)  # onnx changes what it saves
        where = {"location": f"{at}", "size_threshold": 0, "convert_attribute": True}
        onnx.save_model(beside, tmp_path / "b.onnx", save_as_external_data=True, **where)
        assert digests(load(tmp_path / "b.onnx")) == expected


def test_those_of_tensors_that_are_read_in_pieces(monkeypatch):
    from onnx_compress.ir.graph import storage

    model = product()
    whole = digests(from_proto(model))
    monkeypatch.setattr(storage, "PIECE", 1000)
    assert digests(from_proto(model)) == whole
    assert whole["w"] == sha("FLOAT", weight(0).shape, weight(0).tobytes())


def test_branches_of_nodes_without_names_do_not_hide_each_other():
    model = parsed(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (bool c, float[N,32] x) => (float[N,32] y) {
            h = If (c) < then_branch = t () => (float[N,32] r) { r = MatMul(x, w) },
                         else_branch = e () => (float[N,32] s) { s = Identity(x) } >
            y = If (c) < then_branch = t () => (float[N,32] r) { r = MatMul(h, w) },
                         else_branch = e () => (float[N,32] s) { s = Identity(h) } >
        }"""
    )
    bodies = [node.attribute[0].g for node in model.graph.node]
    for number, body in enumerate(bodies):
        body.initializer.append(numpy_helper.from_array(values(number), "w"))
    view = from_proto(model)
    stamp(view)
    written = to_proto(view)
    assert changed(from_proto(written)) == []
    for node in written.graph.node:
        tampered = ModelProto()
        tampered.CopyFrom(written)
        at = list(written.graph.node).index(node)
        flip(tampered.graph.node[at].attribute[0].g.initializer[0])
        assert changed(from_proto(tampered)) != [], at


def test_tensors_in_functions_have_them_too():
    model = parsed(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N,32] x) => (float[N,32] y) { y = local.f(x) }
        <domain: "local", opset_import: ["" : 21]>
        f (p) => (q) { k = Constant()  q = MatMul(p, k) }"""
    )
    attribute = helper.make_attribute("value", numpy_helper.from_array(values(0)))
    model.functions[0].node[0].attribute.append(attribute)
    view = from_proto(model)
    stamp(view)
    written = to_proto(view)
    assert changed(from_proto(written)) == []
    flip(written.functions[0].node[0].attribute[0].t)
    assert len(changed(from_proto(written))) == 1
