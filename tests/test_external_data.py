"""Weights in other files: found in the model's folder, and never outside it."""

import os

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, TensorProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import CompressError, InvalidError, LoadError
from onnx_compress.ir.graph import from_proto, load, save

from graphs import WIDE, weight


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


def test_a_reference_to_the_wrong_place_is_found(tmp_path):
    with pytest.raises(LoadError, match="ends before"):
        load(external(tmp_path, offset=1))
    with pytest.raises(InvalidError, match="bytes of data where"):
        load(external(tmp_path, length=16))


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
