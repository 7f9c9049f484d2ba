"""What a form stores: its size, tied weights once, documentation, names."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.files import file_size
from onnx_compress.ir.weights.forms import READERS, Half

from coded_weights import QUANTIZED, close, coded, emitted, same_bits, sample
from graphs import array, run, view


def test_a_tied_table_is_stored_once_as_codes():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        w=array(300, 64))  # fmt: skip
    for reader in ("codec", "dynamic"):
        small, _ = close(
            model,
            {"i": np.array([7, 299])},
            lambda weight, r=reader: coded(weight, {"Gather": "gathered", "MatMul": r}),
        )
        assert file_size(small) < 0.3 * file_size(model)
        large = [t for t in to_proto(small).graph.initializer if np.prod(t.dims) == 300 * 64]
        assert [t.data_type for t in large] == [TensorProto.INT8]


def test_half_of_a_tied_table_is_stored_once():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        w=array(300, 64))  # fmt: skip
    feed = {"i": np.array([7, 299])}
    small, _ = same_bits(model, feed, Half.of, tolerance=1e-5)
    assert file_size(small) < 0.55 * file_size(model)


@pytest.mark.parametrize("reader", READERS)
def test_the_original_goes_and_the_file_shrinks(reader):
    text = "(int64[2] i) => (float y) { y = Gather(w, i) }"
    if reader in ("dynamic", "dequantize"):
        text = "(float[1,256] x) => (float y) { y = MatMul(x, w) }"
    weight = array(256, 64)
    if reader == "static":
        text, weight = QUANTIZED, array(256, 6, 11)
    model = view(text, w=weight)
    small, _, forms = emitted(model, lambda weight: coded(weight, reader))
    stored = to_proto(small).graph.initializer
    assert "w" not in [t.name for t in stored]
    assert sum(len(t.raw_data) for t in stored) == forms["w"].nbytes()
    assert file_size(small) < 0.35 * file_size(model)


def test_documentation_of_the_weight_and_the_node_goes_with_them():
    proto = to_proto(sample("MatMul")[0])
    proto.graph.initializer[0].doc_string = "about w"
    proto.graph.node[0].doc_string = "about the product"
    proto.graph.node[0].name = "product"
    small, _, _ = emitted(from_proto(proto), lambda weight: coded(weight, "codec"))
    (codes,) = [t for t in to_proto(small).graph.initializer if t.data_type == TensorProto.INT8]
    assert codes.doc_string == "about w"
    small, _, _ = emitted(from_proto(proto), lambda weight: coded(weight, "dynamic"))
    named = {node.proto.op_type: node.proto for node in small.nodes()}
    assert named["MatMulInteger"].name == "product"
    assert named["DynamicQuantizeLinear"].doc_string == "about the product"


def test_names_stay_unique_and_short_with_weights_of_long_equal_endings():
    tail = "/a/very/long/scope/of/modules.weight"
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[3,6] x) => (float y) '
        "{ a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }"
    )
    for at, name in enumerate(("one" + tail, "two" + tail)):
        proto.graph.initializer.append(numpy_helper.from_array(array(6, 8), name))
        proto.graph.node[at].input[1] = name
    for reader in ("codec", "dynamic", "dequantize"):
        feed = {"x": array(3, 6)}
        small, _ = close(from_proto(proto), feed, lambda w, r=reader: coded(w, r))
        made = [v.name for node in small.nodes() for v in node.outputs]
        made += [value.name for value in small.graph.initializers]
        assert len(set(made)) == len(made)
        assert max(len(name) for name in made) < 40


def test_one_emitted_copy_leaves_the_other_alone():
    model, (feed,) = sample("Gather and MatMul")
    before, expected = to_bytes(model), run(model, **feed)
    emitted(model, lambda weight: coded(weight, {"Gather": "gathered", "MatMul": "dynamic"}))
    assert to_bytes(model) == before
    np.testing.assert_array_equal(run(model, **feed), expected)
