"""Digests of weights: what was changed afterwards has a name."""

import json

import numpy as np
import onnx
import pytest
from digested import everywhere, flip, values
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.ir.graph.digests import KEY, changed, stamp

from graphs import parsed, product, weight


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
