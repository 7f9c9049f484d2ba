"""Digests of weights: what they are over, and that they name what was changed afterwards."""

import base64
import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.ir.graph.digests import KEY, changed, digests, stamp

from graphs import parsed, product, weight

LARGE = 32  # LARGE x LARGE float32 values have a digest of their own


def values(seed: int, dtype=np.float32) -> np.ndarray:
    return weight(seed)[:LARGE, :LARGE].astype(dtype)


def typed(array: np.ndarray, name: str, kind: int = TensorProto.FLOAT) -> TensorProto:
    """In float_data, int32_data and the like."""
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def sha(kind: str, shape, data: bytes) -> str:
    """As the module documents it."""
    dims = ",".join(str(dim) for dim in shape)
    found = hashlib.sha256(f"{kind} {dims}\n".encode() + data).digest()
    return base64.b64encode(found).decode().rstrip("=")


def of_tensor(tensor: TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    kind = TensorProto.DataType.Name(tensor.data_type)
    return sha(kind, tensor.dims, numpy_helper.from_array(array).raw_data)


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


INSIDE = {
    "k": 3,
    "w": 0,
    "outer/then_branch/t": 1,
    "outer/else_branch/inner/then_branch/w2": 2,
    "outer/else_branch/inner/else_branch/k2": 4,
}


# ----------------------------------------------------------------------------- what they are


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


# ------------------------------------------------------------------------------ what changed


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


def stored(model: ModelProto) -> dict[str, TensorProto]:
    """All tensors by the names of their digests."""
    graph = model.graph
    found = {tensor.name: tensor for tensor in graph.initializer}
    found["sparse"] = graph.sparse_initializer[0].values
    found["k"] = graph.node[0].attribute[0].t
    then, other = (attribute.g for attribute in graph.node[3].attribute)
    inner_then, inner_other = (attribute.g for attribute in other.node[1].attribute)
    found["outer/then_branch/t"] = then.initializer[0]
    found["outer/else_branch/inner/then_branch/w2"] = inner_then.initializer[0]
    found["outer/else_branch/inner/else_branch/k2"] = inner_other.node[0].attribute[0].t
    return found


def test_exactly_the_tensor_that_was_changed_is_named():
    view = from_proto(everywhere())
    assert changed(view) == []  # it has no stamp
    stamp(view)
    written = to_proto(view)
    assert changed(from_proto(written)) == []
    names = list(stored(written))
    assert len(names) > 15
    for name in names:
        tampered = ModelProto()
        tampered.CopyFrom(written)
        flip(stored(tampered)[name])
        assert changed(from_proto(tampered)) == [name]
    indices = ModelProto()
    indices.CopyFrom(written)
    indices.graph.sparse_initializer[0].indices.int64_data[0] = 160
    assert changed(from_proto(indices)) == ["sparse"]


def test_a_small_tensor_is_named_and_one_is_told_of_a_file_without_marks():
    arrays = {name: np.full(3, at, np.float32) for at, name in enumerate("abc")}
    view = from_proto(parsed("(float[N] x) => (float[N] y) { y = Relu(x) }", **arrays))
    stamp(view)
    written = to_proto(view)
    entry = next(entry for entry in written.metadata_props if entry.key == KEY)
    flip(written.graph.initializer[1])
    assert changed(from_proto(written)) == ["b"]
    entry.value = json.dumps({"": json.loads(entry.value)[""].split()[0]})
    assert changed(from_proto(written)) == [""]
    flip(written.graph.initializer[1])
    assert changed(from_proto(written)) == []
    written.graph.initializer.pop()
    assert changed(from_proto(written)) == [""]


@pytest.mark.parametrize("external", [False, True], ids=["single", "external"])
def test_every_byte_of_a_file_that_belongs_to_a_weight_counts(tmp_path, external):
    view, path = from_proto(product()), tmp_path / "m.onnx"
    stamp(view)
    save(view, path, external)
    data = next(tmp_path.glob("*.data")) if external else path
    content = data.read_bytes()
    assert changed(load(path)) == []
    for name, array in {"w": weight(0), "v": weight(1)}.items():
        start = content.index(array.tobytes())
        for at in (start, start + array.nbytes // 2, start + array.nbytes - 1):
            tampered = bytearray(content)
            tampered[at] ^= 128
            data.write_bytes(tampered)
            assert changed(load(path)) == [name]
    data.write_bytes(content)
    assert changed(load(path)) == []


def test_what_is_missing_new_renamed_or_reshaped_is_named():
    view = from_proto(product())
    stamp(view)
    written = to_proto(view)
    new = numpy_helper.from_array(values(5), "new")
    written.graph.initializer.append(new)
    assert changed(from_proto(written)) == ["new"]
    del written.graph.initializer[2], written.graph.initializer[0].dims[:]
    written.graph.initializer[0].dims.extend([32, 128])
    assert changed(from_proto(written)) == ["w"]
    written.graph.initializer[0].name = "u"
    assert changed(from_proto(written)) == ["u", "w"]


def test_saving_by_others_changes_nothing(tmp_path):
    view, path = from_proto(everywhere()), tmp_path / "m.onnx"
    stamp(view)
    for external in (False, True):
        save(view, path, external)
        assert changed(load(path)) == []
        model = onnx.load(path)
        onnx.save(model, tmp_path / "a.onnx")
        assert changed(load(tmp_path / "a.onnx")) == []
        onnx.save_model(
            model, tmp_path / "b.onnx", save_as_external_data=True, location="b", size_threshold=0
        )
        assert changed(load(tmp_path / "b.onnx")) == []
        (tmp_path / "b").unlink()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", '"a"', "\0", '{"w": []}', '{"w": {}, "": null}', '{"w": NaN}',
     "[" * 100_000, '{"a":' * 100_000, "9" * 10_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_stamp_that_is_none_is_a_change_and_no_failure(text):
    model = product()
    model.metadata_props.add(key=KEY, value=text)
    assert changed(from_proto(model)) != []


def test_an_empty_stamp_says_nothing():
    model = product()
    model.metadata_props.add(key=KEY, value="{}")
    assert changed(from_proto(model)) == []
