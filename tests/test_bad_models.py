"""Models with wrong numbers or broken graphs are refused with what is wrong."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph.wire import encoded

from graphs import WIDE, run, weight
from refused_files import (
    changed,
    field,
    refused,
    said,
)

# ----------------------------------------------------------------------------------- wrong numbers


def holding(tensor: TensorProto, place: str) -> ModelProto:
    """A model with this weight, 64 x 64."""
    lines = "Wf = Cast<to=1>(W)  y = MatMul(x, Wf)"
    if place == "branch":
        yes = "t () => (float[N,64] r) { r = Relu(x) }"
        no = f"e () => (float[N,64] r) {{ {lines.replace('y =', 'r =')} }}"
        lines = f"y = If(c) <then_branch = {yes}, else_branch = {no}>"
    proto = parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> '
        f"g (float[N,64] x, bool c) => (float[N,64] y) {{ {lines} }}"
    )
    if place == "initializer":
        proto.graph.initializer.append(tensor)
        return proto
    graph = proto.graph.node[0].attribute[1].g if place == "branch" else proto.graph
    graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    return proto


BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "DOUBLE": 8, "INT8": 1, "INT64": 8, "INT4": 0.5}


@pytest.mark.parametrize("place", ["initializer", "node", "branch"])
@pytest.mark.parametrize("kind", BYTES)
def test_data_that_do_not_fit_their_shape_are_named(tmp_path, kind, place):
    size = int(64 * 64 * BYTES[kind])
    for wrong in (0, size - 1, size // 2, size + 1, size + 100):
        element = getattr(TensorProto, kind)
        tensor = TensorProto(name="W", data_type=element, dims=[64, 64], raw_data=bytes(wrong))
        sizes = (rf"\b{wrong}\b", rf"\b{size}\b") if wrong else ()
        refused(tmp_path, holding(tensor, place), r"\bW\b", *sizes)


def test_data_that_do_not_fit_are_no_fault_of_the_samples_where_a_model_runs_in_pieces(tmp_path):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[64, 64], raw_data=bytes(100))
    refused(tmp_path, holding(tensor, "initializer"), "W", arguments=("--memory", "1KB"))


SHAPES = {
    "beyond 2^63": [2**32, 2**32],
    "beyond 2^64, zero modulo": [2**33, 2**33, 4],
    "beyond 2^64, right modulo": [2**62 + 1024, 4],
    "negative": [-64, -64],
    "one negative": [-1, 64],
    "huge": [64, 10**12],
}


@pytest.mark.parametrize("data", [b"", bytes(64 * 64 * 4)], ids=["no data", "data"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("place", ["initializer", "node"])
def test_sizes_that_cannot_be_are_errors_of_the_model(tmp_path, place, name, data):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=SHAPES[name], raw_data=data)
    refused(tmp_path, holding(tensor, place))


@pytest.mark.parametrize("kind", [0, 77])
def test_an_unknown_type_of_numbers_is_named_with_the_weight(tmp_path, kind):
    tensor = TensorProto(name="W", data_type=kind, dims=[64, 64], raw_data=bytes(64 * 64 * 4))
    refused(tmp_path, holding(tensor, "initializer"), "W: ")


# --------------------------------------------------------------------------------- broken graphs


def typed(name: str, kind: int = TensorProto.FLOAT, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape or None)


def nested(levels: int) -> bytes:
    """If in If, byte by byte: protobuf refuses to build what is deeper than a file may be."""

    def graph(node: bytes, name: str) -> bytes:
        return field(1, node) + field(2, b"g") + field(12, typed(name).SerializeToString())

    inner = graph(helper.make_node("Relu", ["x"], ["y0"]).SerializeToString(), "y0")
    for level in range(1, levels + 1):
        other = graph(
            helper.make_node("Neg", ["x"], [f"e{level}"]).SerializeToString(), f"e{level}"
        )
        node = field(1, b"c") + field(2, f"y{level}".encode()) + field(4, b"If")
        for name, body in ((b"then_branch", inner), (b"else_branch", other)):
            node += field(5, field(1, name) + field(6, body) + encoded(20 << 3) + encoded(5))
        inner = graph(node, f"y{level}")
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inner += field(11, condition.SerializeToString()) + field(
        11, typed("x", 1, 4).SerializeToString()
    )
    opset = field(8, helper.make_opsetid("", 17).SerializeToString())
    return encoded(1 << 3) + encoded(8) + opset + field(7, inner)


def test_twenty_branches_in_each_other_are_fine(tmp_path):
    code, lines = said(tmp_path, nested(20), "--quiet")
    assert code == 0, lines
    x = np.float32([-1, 2, -3, 4])
    for condition, expected in ((True, np.maximum(x, 0)), (False, -x)):
        (y,) = run(onnx.load(tmp_path / "out.onnx"), x=x, c=np.array(condition))
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("levels", [40, 200])
def test_branches_deeper_than_a_file_may_hold_are_said_to_be_too_deep(tmp_path, levels):
    assert "cut short" not in refused(tmp_path, nested(levels), "nested")


CYCLES = {
    "two nodes": "a = Add(x, b)  b = Relu(a)  y = Relu(b)",
    "itself": "y = Add(x, y)",
    "through a branch": "h = If(c) <then_branch = t () => (float[4] r) { r = Add(x, y) },"
    " else_branch = e () => (float[4] s) { s = Neg(x) }>  y = Relu(h)",
}


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_are_named(tmp_path, name):
    text = "g (float[4] x, bool c) => (float[4] y) { " + CYCLES[name] + " }"
    refused(tmp_path, parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text), "cycle")


@pytest.mark.parametrize("value", ["one", 1.0, [1, 2], numpy_helper.from_array(weight())], ids=type)
def test_an_attribute_of_the_wrong_type_is_named(tmp_path, value):
    proto = parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,{WIDE}] x, float[{WIDE},{WIDE}] w) => (float[N,{WIDE}] y) {{ y = Gemm(x, w) }}"""
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("transB", value))
    refused(tmp_path, proto, "transB", "type")


def test_an_operator_that_does_not_exist_is_named(tmp_path):
    proto = changed(lambda model: setattr(model.graph.node[0], "op_type", "Nonsense"))
    refused(tmp_path, proto, "Nonsense")
