"""Cutting weights out of the bytes of a model, and splicing them back in."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnx_compress.ir.graph.wire import Blob, WireError, cut, reference, size, splice

PLACE = "elsewhere-"


def tensors_in(graph: GraphProto, nodes=None) -> list[TensorProto]:
    """All tensors of a graph that `cut` looks at, in the order of the walk."""
    found = list(graph.initializer) if nodes is None else []
    for node in graph.node if nodes is None else nodes:
        for attribute in node.attribute:
            found += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                found += tensors_in(body)
    return found


def tensors_of(model: ModelProto) -> list[TensorProto]:
    nodes = [node for function in model.functions for node in function.node]
    return tensors_in(model.graph) + tensors_in(model.graph, nodes)


def filled(parts, data: bytes) -> bytes:
    return b"".join(
        data[part.offset : part.offset + part.length] if isinstance(part, Blob) else bytes(part)
        for part in parts
    )


def field(number: int, data: bytes) -> bytes:
    """A field of bytes, with its key and length in front."""
    length, encoded = len(data), bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *encoded, length]) + data


def raw_tensor(name: str, raw: bytes) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.UINT8, dims=[len(raw)], raw_data=raw)


raws = st.builds(
    lambda length, byte: bytes([byte]) * length,
    st.sampled_from([0, 1, 7, 8, 9, 200]),
    st.integers(0, 255),
)
tensors = st.builds(raw_tensor, st.text("abé", max_size=3), raws) | st.just(
    TensorProto(name="floats", data_type=1, dims=[4], float_data=[1, 2, 3, 4])
)


@st.composite
def attributes(draw, depth: int) -> AttributeProto:
    kind = draw(st.sampled_from(["t", "tensors", "i", "s", *(["g", "graphs"] if depth else [])]))
    out = AttributeProto(name=kind)
    if kind == "t":
        out.type = AttributeProto.TENSOR
        out.t.CopyFrom(draw(tensors))
    elif kind == "tensors":
        out.type = AttributeProto.TENSORS
        out.tensors.extend(draw(st.lists(tensors, max_size=3)))
    elif kind == "g":
        out.type = AttributeProto.GRAPH
        out.g.CopyFrom(draw(graphs(depth - 1)))
    elif kind == "graphs":
        out.type = AttributeProto.GRAPHS
        out.graphs.extend(draw(st.lists(graphs(depth - 1), max_size=2)))
    elif kind == "s":
        out.type, out.s = AttributeProto.STRING, draw(st.binary(max_size=40))
    else:
        out.type, out.i = AttributeProto.INT, draw(st.integers(-(2**63), 2**63 - 1))
    return out


def nodes(depth: int):
    return st.builds(
        lambda found: NodeProto(op_type="Op", attribute=found),
        st.lists(attributes(depth), max_size=2),
    )


@st.composite
def graphs(draw, depth: int) -> GraphProto:
    return GraphProto(
        name=draw(st.text(max_size=3)),
        initializer=draw(st.lists(tensors, max_size=3)),
        node=draw(st.lists(nodes(depth), max_size=2)),
    )


@st.composite
def models(draw) -> ModelProto:
    out = ModelProto(ir_version=draw(st.integers(0, 2**40)), graph=draw(graphs(2)))
    for _ in range(draw(st.integers(0, 1))):
        function = out.functions.add(name="f", domain="d")
        function.node.extend(draw(st.lists(nodes(1), max_size=2)))
    return out


@given(models(), st.sampled_from([1, 8, 9, 100]))
@settings(max_examples=150)
def test_cut_moves_out_exactly_the_large_tensors_and_keeps_the_rest(model, threshold):
    data = model.SerializeToString()
    small = ModelProto.FromString(cut(memoryview(data), threshold, PLACE))
    pairs = list(zip(tensors_of(small), tensors_of(model), strict=True))
    for shell, whole in pairs:
        if len(whole.raw_data) < threshold:
            assert shell == whole
            continue
        assert not shell.HasField("raw_data")
        blob = reference(shell)
        assert blob.location == PLACE
        assert data[blob.offset : blob.offset + blob.length] == whole.raw_data
        shell.raw_data = whole.raw_data
        shell.ClearField("external_data")
        shell.ClearField("data_location")
    assert small == model


@given(models(), st.sampled_from([1, 8, 9, 100]))
@settings(max_examples=150)
def test_splice_is_the_inverse_of_cut(model, threshold):
    data = model.SerializeToString()
    parts = splice(cut(memoryview(data), threshold, PLACE), PLACE)
    written = filled(parts, data)
    assert size(parts) == len(written)
    assert ModelProto.FromString(written) == model


@given(models())
@settings(max_examples=30)
def test_without_large_tensors_the_bytes_stay_as_they_are(model):
    data = model.SerializeToString()
    assert cut(memoryview(data), 1000, PLACE) == data
    assert filled(splice(data, PLACE), b"") == data


@given(st.binary(max_size=200))
def test_bytes_of_anything_are_cut_or_refused(data):
    with contextlib.suppress(WireError):
        assert isinstance(cut(memoryview(data), 1, PLACE), bytes)


def large_model() -> ModelProto:
    constant = helper.make_node("Constant", [], ["k"], value=raw_tensor("", bytes(300)))
    graph = helper.make_graph([constant], "g", [], [], [raw_tensor("w", b"w" * 50)])
    return helper.make_model(graph)


def test_every_truncation_is_refused_or_leaves_a_smaller_message():
    data = large_model().SerializeToString()
    for end in range(len(data)):
        try:
            small = cut(memoryview(data[:end]), 16, PLACE)
        except WireError:
            continue
        assert len(small) <= end + 60


def test_a_message_that_claims_more_than_there_is_names_the_place():
    with pytest.raises(WireError, match="byte 0"):
        cut(memoryview(b"\x3a\x7f\x00"), 1, PLACE)


@pytest.mark.parametrize("data", [b"\x0b", b"\x0c", b"\x0e", b"\x0f", b"\x80" * 12, b"\x09\x00"])
def test_groups_unknown_wire_types_and_endless_numbers_are_refused(data):
    with pytest.raises(WireError):
        cut(memoryview(data), 1, PLACE)


def test_unknown_fields_of_all_wire_types_survive():
    unknown = b"\x80\x7d\x05" + b"\x81\x7d" + bytes(8) + b"\x82\x7d\x03abc" + b"\x85\x7d" + bytes(4)
    data = large_model().SerializeToString() + unknown
    small = cut(memoryview(data), 16, PLACE)
    assert small.endswith(unknown)
    assert filled(splice(small, PLACE), data).endswith(unknown)


def test_external_tensors_and_explicit_locations_are_left_alone():
    external = raw_tensor("w", b"")
    external.data_location = TensorProto.EXTERNAL
    external.external_data.add(key="location", value="weights.bin" * 10)
    default = raw_tensor("v", b"v" * 50)
    default.data_location = TensorProto.DEFAULT
    data = ModelProto(graph=GraphProto(initializer=[external, default])).SerializeToString()
    assert cut(memoryview(data), 16, PLACE) == data


def test_data_given_twice_are_left_to_the_parser():
    whole = (
        raw_tensor("w", b"a" * 50).SerializeToString()
        + TensorProto(raw_data=b"b" * 50).SerializeToString()
    )
    data = field(7, field(5, whole))
    small = ModelProto.FromString(cut(memoryview(data), 16, PLACE))
    assert small == ModelProto.FromString(data)
    assert small.graph.initializer[0].raw_data == b"b" * 50


def test_fields_after_the_data_are_kept():
    tensor = b"\x4a\x20" + b"x" * 32 + TensorProto(name="late", dims=[32]).SerializeToString()
    data = field(7, field(5, tensor))
    small = cut(memoryview(data), 16, PLACE)
    (shell,) = ModelProto.FromString(small).graph.initializer
    assert (shell.name, list(shell.dims), reference(shell).length) == ("late", [32], 32)
    (back,) = ModelProto.FromString(filled(splice(small, PLACE), data)).graph.initializer
    assert (back.name, back.raw_data) == ("late", b"x" * 32)


def test_a_hostile_depth_is_refused_like_any_other_damage():
    attribute_graph_node = (6, 5, 1)
    data = field(5, raw_tensor("w", bytes(64)).SerializeToString())
    for level in range(3000):
        data = field(attribute_graph_node[level % 3], data)
    with pytest.raises(WireError):
        cut(memoryview(field(7, data)), 16, PLACE)
