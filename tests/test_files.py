"""Models in files and in memory: what is read, what is refused, what is written."""

import contextlib
import os
import stat

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import (
    CompressError,
    InvalidError,
    LoadError,
    OutputError,
    UnsupportedError,
)
from onnx_compress.ir.graph import from_proto, kinds, load, save, to_bytes, to_proto
from onnx_compress.ir.graph.files import Staged, file_size
from onnx_compress.ir.graph.gs import from_gs, to_gs
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.runtime import Session

WIDE = 64  # a WIDE x WIDE float32 weight is larger than what stays in the proto


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((WIDE, WIDE)).astype(np.float32)


def product(ir_version: int = 8, **where: np.ndarray) -> ModelProto:
    """y = x @ w @ v, both in initializers."""
    model = parse_model(
        f"""<ir_version: {ir_version}, opset_import: ["" : 17]>
        g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{ h = MatMul(x, w)  y = MatMul(h, v) }}"""
    )
    for name, array in {"w": weight(0), "v": weight(1), **where}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def run(model, **feed) -> list:
    return Session(model).run(feed)


def run_bytes(proto: ModelProto, **feed) -> list:
    return Session(from_proto(proto)).run(feed)


def external(folder, location="weights.bin", data: bytes | None = None, **keys) -> str:
    """A saved model whose one weight is external; keys replace or add to its reference."""
    array = weight()
    (folder / "weights.bin").write_bytes(array.tobytes() if data is None else data)
    model = parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{ y = MatMul(x, w) }}"""
    )
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **keys}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


# ------------------------------------------------------------------------------- round trips


def everything() -> ModelProto:
    """A model with all that the format can hold, in an order that needs no sorting."""
    model = parse_model(
        """<ir_version: 11, opset_import: ["" : 21, "local" : 1, "com.microsoft" : 1],
            producer_name: "somebody", producer_version: "1", domain: "a.b", model_version: 7,
            doc_string: "doc", metadata_props: ["key" : "value"]>
        g (float[N,4] x, bool c, float[4] d) => (float[N,4] y, float[N,4] z) <float[N,4] a>
        {
            a = Relu(x)
            s, t = Split<axis=1, num_outputs=2>(a)
            u = Concat<axis=1>(s, t)
            l = local.f<k=2.0>(u)
            m = Clip(l, , big)
            y = If (c) <then_branch = yes () => (float[N,4] r) <float[1] one = {1.0}>
                    { r = Add(a, one) },
                else_branch = no () => (float[N,4] r) { r = Mul(a, d) }>
            z = com.microsoft.Gelu(m)
        }
        <domain: "local", opset_import: ["" : 21]>
        f <k> (p) => (q) { kk = Constant<value_float: float = @k>()  q = Mul(p, kk) }"""
    )
    graph = model.graph
    graph.doc_string = "graph doc"
    graph.initializer.append(numpy_helper.from_array(np.float32(6), "big"))
    graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "d"))
    graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b\xff"]))
    graph.initializer.append(helper.make_tensor("i4", TensorProto.INT4, [3], [-8, 7, 1]))
    graph.initializer.append(helper.make_tensor("u4", TensorProto.UINT4, [3], [0, 15, 1]))
    graph.initializer.append(helper.make_tensor("b16", TensorProto.BFLOAT16, [2], [1.5, -2]))
    for name in ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1"):
        kind = getattr(TensorProto, name)
        graph.initializer.append(helper.make_tensor(name, kind, [2, 1], [1.0, -2.0]))
    graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "none"))
    graph.initializer.append(numpy_helper.from_array(weight(), "large"))
    graph.initializer[-1].doc_string = ""
    graph.initializer[-1].metadata_props.add(key="a", value="b")
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
    graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[2, 4]))
    note = graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="big")
    graph.node[0].doc_string = "node doc"
    graph.node[0].metadata_props.add(key="namespace", value="block.0")
    graph.metadata_props.add(key="where", value="graph")
    model.functions[0].doc_string = "function doc"
    return model


def test_whatever_the_format_holds_comes_back_unchanged(tmp_path):
    model = everything()
    assert to_proto(from_proto(model)) == model
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert to_proto(load(path)) == model
    save(load(path), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == model


def test_the_callers_model_is_neither_changed_nor_copied_from_later():
    model = everything()
    before = model.SerializeToString(deterministic=True)
    view = from_proto(model)
    relu = view.graph.outputs[0][0].producer
    large = next(value for value in view.graph.initializers if value.name == "large")
    view.set_constant(large, weight(3))
    small = next(value for value in view.graph.initializers if value.name == "i4")
    view.set_constant(small, view.constant(small)[::-1])
    view.set_attribute(next(n for n in view.nodes() if n.op == "Concat"), "axis", -1)
    view.replace_uses(relu.output, view.add_node(view.graph, "Neg", [relu.output]), lambda _: False)
    view.set_opset("com.microsoft", 2)
    assert to_bytes(view)
    assert model.SerializeToString(deterministic=True) == before


def test_two_saves_give_the_same_bytes(tmp_path):
    view = from_proto(everything())
    save(view, tmp_path / "a.onnx")
    save(view, tmp_path / "b.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "c.onnx")
    first = (tmp_path / "a.onnx").read_bytes()
    assert first == (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    assert first == to_bytes(view)
    assert len(first) == file_size(view)


def test_the_sizes_told_are_those_of_the_files(tmp_path):
    view = from_proto(product())
    single = save(view, tmp_path / "a.onnx")
    assert single == (tmp_path / "a.onnx").stat().st_size == file_size(view)
    double = save(view, tmp_path / "b.onnx", external=True)
    files = [tmp_path / "b.onnx", tmp_path / "b.onnx.data"]
    assert double == sum(file.stat().st_size for file in files)


def test_external_files_are_read_by_onnx_by_the_runtime_and_by_us(tmp_path):
    model = product()
    extra = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weight(2)))
    model.graph.node.insert(0, extra)
    model.graph.node.append(helper.make_node("MatMul", ["y", "k"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    path = tmp_path / "m.onnx"
    save(from_proto(model), path, external=True)
    skeleton = onnx.load(path, load_external_data=False)
    assert path.stat().st_size < 2000
    references = [
        {e.key: e.value for e in tensor.external_data}
        for tensor in (*skeleton.graph.initializer, skeleton.graph.node[0].attribute[0].t)
    ]
    assert [r["location"] for r in references] == ["m.onnx.data"] * 3
    assert all(int(r["offset"]) % 4096 == 0 for r in references)
    x = np.ones((2, WIDE), np.float32)
    expected = run_bytes(model, x=x)
    for results in (run(path, x=x), run(load(path), x=x), run_bytes(onnx.load(path), x=x)):
        np.testing.assert_array_equal(results, expected)
    save(load(path), tmp_path / "single.onnx")
    assert onnx.load(tmp_path / "single.onnx") == to_proto(from_proto(model))


def test_data_written_in_other_fields_than_raw_are_kept_there(tmp_path):
    model = product(w=weight(0)[:1])
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, [WIDE, WIDE], weight().ravel().tolist())
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    view = load(path)
    (w, _) = view.graph.initializers
    np.testing.assert_array_equal(view.constant(w), weight())
    assert to_proto(view) == model


def test_external_tensors_without_elements_come_back(tmp_path):
    path = tmp_path / "m.onnx"
    model = product()
    empty = TensorProto(name="none", data_type=TensorProto.FLOAT, dims=[0, WIDE])
    empty.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "d.bin"), ("offset", "0"), ("length", "0")):
        empty.external_data.add(key=key, value=value)
    model.graph.initializer.append(empty)
    path.write_bytes(model.SerializeToString())
    (tmp_path / "d.bin").write_bytes(bytes(64))
    view = load(path)
    none = list(view.graph.initializers)[-1]
    assert view.constant(none).shape == (0, WIDE)
    save(view, tmp_path / "out.onnx")
    (*_, back) = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert numpy_helper.to_array(back).shape == (0, WIDE)
    save(load(tmp_path / "out.onnx"), tmp_path / "again.onnx", external=True)
    (*_, back) = onnx.load(tmp_path / "again.onnx").graph.initializer
    assert numpy_helper.to_array(back).shape == (0, WIDE)


def test_small_external_tensors_of_shared_bytes_come_back(tmp_path):
    tensor = helper.make_tensor("w", TensorProto.INT4, [5], [-8, 7, 1, 0, -1])
    model = parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g () => (int4[5] y) { y = Identity(w) }'
    )
    shell = model.graph.initializer.add(name="w", data_type=TensorProto.INT4, dims=[5])
    shell.data_location = TensorProto.EXTERNAL
    packed = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    for key, value in (("location", "d.bin"), ("offset", "2"), ("length", str(len(packed)))):
        shell.external_data.add(key=key, value=value)
    (tmp_path / "d.bin").write_bytes(b"\xff\xff" + packed + b"\xff")
    view = from_proto(model, tmp_path)
    (w,) = view.graph.initializers
    assert view.constant(w).astype(int).tolist() == [-8, 7, 1, 0, -1]
    (back,) = to_proto(view).graph.initializer
    assert numpy_helper.to_array(back).astype(int).tolist() == [-8, 7, 1, 0, -1]


# ----------------------------------------------------------------------------------- in place


def test_a_model_may_be_saved_over_the_file_it_came_from(tmp_path):
    path = tmp_path / "m.onnx"
    for external_data in (False, True, False, True):
        if not path.exists():
            save(from_proto(product()), path, external=external_data)
        view = load(path)
        w = next(value for value in view.graph.initializers if value.name == "w")
        new = view.constant(w) * 2
        view.set_constant(w, new)
        save(view, path, external=external_data)
        np.testing.assert_array_equal(view.constant(w), new)
        again = load(path)
        w, v = again.graph.initializers
        np.testing.assert_array_equal(again.constant(w), new)
        np.testing.assert_array_equal(again.constant(v), weight(1))


def test_a_loaded_model_survives_that_its_file_is_removed_and_replaced(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(product().SerializeToString())
    view = load(path)
    path.unlink()
    path.write_bytes(bytes(100_000))
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(view, x=x), run_bytes(product(), x=x))


def test_a_file_cut_short_while_in_use_is_an_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(product().SerializeToString())
    view = load(path)
    os.truncate(path, 5000)
    with pytest.raises(LoadError, match="cut short"):
        save(view, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not a model at all",
        bytes(1000),
        b"\x08\x08",
        b"\x3a\x00",
        b"{}",
        b"\xff" * 9,
    ],
)
def test_other_files_are_refused_in_words(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(LoadError) as caught:
        load(path)
    assert caught.value.hint
    assert caught.value.where == str(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path, tmp_path / "none" / "m.onnx"):
        with pytest.raises(LoadError, match=r"."):
            load(path)


def test_every_truncation_is_a_load_error_or_ends_between_two_fields(tmp_path):
    data = product().SerializeToString()
    path = tmp_path / "m.onnx"
    ends = {*range(300), *range(len(data) - 300, len(data)), *range(0, len(data), 997)}
    loaded = []
    for end in sorted(ends):
        path.write_bytes(data[:end])
        try:
            load(path)
            loaded.append(end)
        except LoadError:
            pass
    whole = [ModelProto.FromString(data[:end]).ByteSize() for end in loaded]
    assert whole == loaded


def test_a_file_cut_behind_its_graph_has_no_operator_set_and_is_refused(tmp_path):
    model = product()
    del model.opset_import[:]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadError):
        load(path)


@given(st.data())
@settings(max_examples=200)
def test_damaged_files_raise_nothing_but_our_errors(tmp_path_factory, data):
    whole = bytearray(BROKEN_FROM)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(STRUCTURE))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(whole)
    with contextlib.suppress(CompressError):
        view = load(path)
        check(view)
        for value in view.graph.initializers:
            view.constant(value)
        to_bytes(view)


BROKEN_FROM = everything().SerializeToString()
_LARGE = BROKEN_FROM.index(weight().tobytes())
STRUCTURE = [
    at for at in range(len(BROKEN_FROM)) if not _LARGE <= at < _LARGE + weight().nbytes
]  # bytes that are not numbers


@pytest.mark.parametrize("field", ["producer_name", "graph name", "weight name", "MatMul"])
def test_text_that_is_no_utf8_is_an_error_of_ours_or_kept(tmp_path, field):
    model = product()
    model.producer_name, model.graph.name = "producer_name", "graph name"
    model.graph.initializer.add(name="weight name", data_type=1, dims=[1], float_data=[1])
    path = tmp_path / "m.onnx"
    data = model.SerializeToString().replace(field.encode(), b"\xff" * len(field))
    path.write_bytes(data)
    with contextlib.suppress(CompressError):
        assert ModelProto.FromString(to_bytes(load(path))) == ModelProto.FromString(data)


def test_damage_behind_a_large_weight_is_a_load_error(tmp_path):
    data = bytearray(product().SerializeToString())
    second = data.index(weight(1).tobytes())
    data[second - 2] ^= 0xFF  # the length in front of the second weight
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(LoadError):
        load(path)


def test_a_model_without_outputs_is_refused():
    model = product()
    del model.graph.output[:]
    with pytest.raises(InvalidError):
        from_proto(model)


def test_numbers_that_do_not_fit_the_shape_are_found_when_they_are_read():
    model = product()
    model.graph.initializer[0].dims[0] = WIDE - 1
    model.graph.initializer[1].raw_data = model.graph.initializer[1].raw_data[:-1]
    view = from_proto(model)
    for value in view.graph.initializers:
        with pytest.raises(InvalidError, match="do not fit"):
            view.constant(value)


def nested(levels: int) -> ModelProto:
    model = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (bool c, float[1] x) => (float[1] y) { y = Relu(x) }"
    )
    graph = model.graph
    for _ in range(levels):
        del graph.node[:]
        node = graph.node.add(op_type="If", input=["c"], output=["y"])
        for name in ("then_branch", "else_branch"):
            body = node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g
            body.output.add(name="y")
            body.node.add(op_type="Relu", input=["x"], output=["y"])
        graph = node.attribute[0].g
    return model


def test_bodies_as_deep_as_a_file_can_hold_are_read(tmp_path):
    model = nested(30)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    view = load(path)
    check(view)
    assert len(list(view.graphs())) == 61
    assert to_proto(view) == model


def test_deeper_bodies_are_refused():
    with pytest.raises(InvalidError):
        from_proto(nested(70))


# ----------------------------------------------------------------------------- external data


@pytest.mark.parametrize(
    "keys", [{}, {"offset": 0}, {"length": WIDE * WIDE * 4}, {"checksum": "x"}]
)
def test_external_data_in_the_folder_are_read(tmp_path, keys):
    view = load(external(tmp_path, **keys))
    (w,) = view.graph.initializers
    np.testing.assert_array_equal(view.constant(w), weight())


def test_external_data_are_found_in_folders_below(tmp_path):
    (tmp_path / "a").mkdir()
    path = external(tmp_path, "a/w.bin")
    (tmp_path / "weights.bin").rename(tmp_path / "a" / "w.bin")
    view = load(path)
    np.testing.assert_array_equal(view.constant(*view.graph.initializers), weight())


@pytest.mark.parametrize(
    "keys",
    [
        {"basepath": "x"},
        {"location": None},
        {"location": ""},
        {"location": "."},
        {"location": "none.bin"},
        {"location": "n" * 5000},
        {"location": "weights.bin\0"},
        {"location": "weights.bin/x"},
        {"offset": -1},
        {"offset": 10**30},
        {"offset": "abc"},
        {"offset": ""},
        {"offset": "9" * 5000},
        {"length": -4},
        {"length": 10**30},
        {"length": "0x10"},
        {"length": WIDE * WIDE * 4 + 1},
    ],
)
def test_bad_references_are_load_errors(tmp_path, keys):
    with pytest.raises(LoadError):
        load(external(tmp_path, **keys))


def test_a_reference_to_the_wrong_place_is_found_when_it_is_read(tmp_path):
    view = load(external(tmp_path, offset=1))
    with pytest.raises(InvalidError, match="do not fit"):
        view.constant(*view.graph.initializers)


def test_data_outside_the_folder_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weight().tobytes())
    (inside / "sub").mkdir()
    for location in (str(secret), "../secret.bin", "sub/../../secret.bin", "./../secret.bin"):
        with pytest.raises(LoadError, match=r"secret\.bin"):
            load(external(inside, location))
    absolute = str(inside / "weights.bin")
    with pytest.raises(LoadError, match="outside"):
        load(external(inside, absolute))


def test_links_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weight().tobytes())
    (inside / "soft.bin").symlink_to(secret)
    (inside / "near.bin").symlink_to("weights.bin")
    (inside / "up").symlink_to(tmp_path)
    os.link(secret, inside / "hard.bin")
    os.mkfifo(inside / "pipe.bin")
    for location in ("soft.bin", "near.bin", "up/secret.bin", "hard.bin", "pipe.bin"):
        with pytest.raises(LoadError):
            load(external(inside, location))


def test_a_link_to_the_folder_of_the_model_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    external(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    view = load(tmp_path / "link" / "model.onnx")
    np.testing.assert_array_equal(view.constant(*view.graph.initializers), weight())


def test_short_data_files_are_refused(tmp_path):
    with pytest.raises(LoadError, match="ends before"):
        load(external(tmp_path, data=bytes(100), length=WIDE * WIDE * 4))


def test_a_model_in_memory_needs_a_folder_for_external_data(tmp_path):
    model = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(LoadError, match="no folder"):
        from_proto(model)
    view = from_proto(model, tmp_path)
    np.testing.assert_array_equal(view.constant(*view.graph.initializers), weight())


def sparse_external(folder, in_node: bool) -> str:
    values = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    values.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "16")):
        values.external_data.add(key=key, value=value)
    indices = helper.make_tensor("", TensorProto.INT64, [4], [0, 3, 5, 9])
    sparse = SparseTensorProto(values=values, indices=indices, dims=[3, 4])
    model = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N,3] x) => (float[N,4] y) { y = MatMul(x, w) }"
    )
    if in_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    (folder / "weights.bin").write_bytes(np.arange(1, 5, dtype=np.float32).tobytes())
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return str(folder / "m.onnx")


@pytest.mark.parametrize("in_node", [False, True])
def test_external_sparse_data_are_read_or_refused_but_never_left_behind(tmp_path, in_node):
    try:
        view = load(sparse_external(tmp_path, in_node))
    except CompressError:
        return
    w = next(value for node in view.nodes() for value in node.inputs[1:])
    assert view.constant(w).ravel()[[0, 3, 5, 9]].tolist() == [1, 2, 3, 4]
    (tmp_path / "out").mkdir()
    save(view, tmp_path / "out" / "m.onnx")
    back = load(tmp_path / "out" / "m.onnx")
    w = next(value for node in back.nodes() for value in node.inputs[1:])
    assert back.constant(w).ravel()[[0, 3, 5, 9]].tolist() == [1, 2, 3, 4]


def test_external_sparse_data_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    path = sparse_external(tmp_path, False)
    model = onnx.load(path, load_external_data=False)
    model.graph.sparse_initializer[0].values.external_data[0].value = "../weights.bin"
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CompressError):
        load(tmp_path / "in" / "m.onnx")


# ------------------------------------------------------------------------------------- staged


def test_nothing_appears_before_commit_and_nothing_is_left_after(tmp_path):
    view = from_proto(product())
    for external_data in (False, True):
        target = tmp_path / "out.onnx"
        with Staged(view, target, external_data) as staged:
            assert not target.exists()
            x = np.ones((1, WIDE), np.float32)
            np.testing.assert_array_equal(run(staged.path, x=x), run(view, x=x))
        assert os.listdir(tmp_path) == []
        with Staged(view, target, external_data) as staged:
            staged.commit()
        names = ["out.onnx", "out.onnx.data"] if external_data else ["out.onnx"]
        assert sorted(os.listdir(tmp_path)) == names
        for name in names:
            (tmp_path / name).unlink()


def test_an_error_while_staged_cleans_up(tmp_path):
    with pytest.raises(KeyError), Staged(from_proto(product()), tmp_path / "m.onnx", True):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_output_errors(tmp_path):
    view = from_proto(product())
    taken = tmp_path / "taken.onnx"
    taken.mkdir()
    for path in (tmp_path / "none" / "m.onnx", taken, tmp_path / ("n" * 300)):
        with pytest.raises(OutputError) as caught:
            save(view, path)
        assert caught.value.hint
    assert os.listdir(tmp_path) == ["taken.onnx"]


def test_files_are_written_with_the_permissions_that_new_files_have(tmp_path):
    save(from_proto(product()), tmp_path / "m.onnx")
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m.onnx", "plain")}
    assert len(modes) == 1


def test_a_relative_path_without_a_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(from_proto(product()), "m.onnx", external=True)
    monkeypatch.chdir("/")
    monkeypatch.chdir(tmp_path)
    assert to_proto(load("m.onnx")) == product()


# ---------------------------------------------------------------------------------- version 3


def version_three() -> ModelProto:
    model = product(ir_version=3)
    for name in ("w", "v"):
        model.graph.input.append(helper.make_tensor_value_info(name, 1, [WIDE, WIDE]))
    model.opset_import[0].version = 8
    return model


def test_initializers_of_version_three_are_weights_and_not_inputs():
    view = from_proto(version_three())
    assert [value.name for value in view.inputs()] == ["x"]
    assert [name for name, _ in view.interface()] == ["x", "y"]
    assert all(view.constant(value) is not None for value in view.graph.initializers)
    assert to_proto(view) == version_three()


def test_raising_version_three_does_not_make_weights_overridable():
    view = from_proto(version_three())
    before = view.interface()
    view.add_constant(view.graph, np.float32(1), "new")
    assert view.ir_version >= 4
    assert view.interface() == before
    assert all(view.constant(value) is not None for value in view.graph.initializers)
    assert [info.name for info in to_proto(view).graph.input] == ["x"]
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(view, x=x), run_bytes(version_three(), x=x))


def test_from_version_four_on_an_initializer_that_is_an_input_may_be_overridden():
    model = version_three()
    model.ir_version = 4
    view = from_proto(model)
    assert [name for name, _ in view.interface()] == ["x", "w", "v", "y"]
    assert [value.name for value in view.inputs()] == ["x"]
    for value in view.graph.initializers:
        assert view.constant(value) is None
        with pytest.raises(InvalidError):
            view.set_constant(value, weight(5))


# -------------------------------------------------------------------------------------- kinds


def test_each_kind_of_model_is_read_and_given_back_as_it_came(tmp_path):
    model = product()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    view, source = kinds.read(path)
    assert source == path
    assert kinds.like(str(path), view, None) == model
    assert kinds.like(path, view, tmp_path / "out") == tmp_path / "out"
    view, source = kinds.read(model)
    assert source is None
    assert kinds.like(model, view, None) == model
    copy, _ = kinds.read(view)
    assert copy is not view
    assert kinds.like(view, copy, None) is copy
    with pytest.raises(LoadError, match="list"):
        kinds.read([model])


def test_graphsurgeon_graphs_go_in_and_out_unchanged():
    graph = gs.import_onnx(product())
    names = [node.op for node in graph.nodes], list(graph.tensors())
    view, source = kinds.read(graph)
    assert source is None
    check(view)
    w = next(value for value in view.graph.initializers if value.name == "w")
    view.set_constant(w, weight(9))
    out = kinds.like(graph, view, None)
    assert isinstance(out, gs.Graph)
    assert ([node.op for node in graph.nodes], list(graph.tensors())) == names
    np.testing.assert_array_equal(graph.tensors()["w"].values, weight(0))
    np.testing.assert_array_equal(out.tensors()["w"].values, weight(9))
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(from_gs(out), x=x), run(view, x=x))
    np.testing.assert_array_equal(run(from_gs(to_gs(view)), x=x), run(view, x=x))


def test_graphs_that_graphsurgeon_cannot_write_are_refused_in_words():
    x = gs.Variable("x", np.float32, [1])
    y = gs.Variable("y", np.float32, [1])
    node = gs.Node("Relu", inputs=[x], outputs=[y], attrs={"bad": object()})
    with pytest.raises(UnsupportedError):
        from_gs(gs.Graph([node], [x], [y]))
