"""Files that are no models, damaged ones, and models that cannot be: refused in words."""

import contextlib

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from onnx.parser import parse_model

from onnx_compress.ir.errors import CompressError, InvalidError, LoadError
from onnx_compress.ir.graph import from_proto, load, to_bytes, to_proto
from onnx_compress.ir.graph.invariants import check

from graphs import WIDE, everything, product, weight


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


def test_numbers_that_do_not_fit_the_shape_are_found_when_the_model_is_read():
    fewer, shorter = product(), product()
    fewer.graph.initializer[0].dims[0] = WIDE - 1
    shorter.graph.initializer[1].raw_data = shorter.graph.initializer[1].raw_data[:-1]
    for model, name in ((fewer, "w"), (shorter, "v")):
        with pytest.raises(InvalidError, match=f"^{name}: .* bytes of data where"):
            from_proto(model)


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
