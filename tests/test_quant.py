"""quant: which weights are stored in fewer bits, how they are read, and what is left alone."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes import Context, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

RNG = np.random.default_rng(11)
SEEDED = RNG.bit_generator.state
FAST = targets.load("avx512-vnni")

Feed = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = SEEDED


def draw(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def build(body: str, opset: int = 17, **weights: np.ndarray) -> ModelProto:
    """A model from text, with these arrays for initializers."""
    model = parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def quant(
    proto: ModelProto, feed: Feed, target: targets.Target = FAST, **options: object
) -> tuple[ModelProto, Report]:
    before = proto.SerializeToString()
    model = from_proto(proto)
    report = Quant(**options).run(model, Context(target, feed))
    invariants.check(model)
    assert proto.SerializeToString() == before
    result = to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def run(proto: ModelProto, feed: Feed) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, feed)


def error(before: ModelProto, after: ModelProto, feed: Feed) -> float:
    """The largest relative error of an output."""
    return max(
        float(np.linalg.norm(y - r) / np.linalg.norm(r))
        for r, y in zip(run(before, feed), run(after, feed), strict=True)
    )


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                nodes += all_nodes(attribute.g)
    return nodes


def ops(proto: ModelProto) -> set[str]:
    return {node.op_type for node in all_nodes(proto.graph)}


def reasons(report: Report) -> str:
    return "; ".join(f"{entry.subject}: {entry.text}" for entry in report.skipped)


def branching() -> ModelProto:
    then = build("g () => (float[?,?] b) { b = MatMul (x, W) }", W=draw(96, 64)).graph
    other = build("g () => (float[?,?] e) { e = MatMul (x, V) }", V=draw(96, 64)).graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other)
    proto = build("g (float[4,96] x, bool c) => (float[?,?] y) { y = Neg (h) }")
    proto.graph.node.insert(0, node)
    return proto


def constant_nodes() -> ModelProto:
    proto = build("g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }")
    tensor = numpy_helper.from_array(draw(96, 64), "")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    return proto


IMAGE: Feed = {"x": draw(2, 16, 8, 8)}
ROWS: Feed = {"x": draw(4, 96)}
IDS: Feed = {"i": RNG.integers(0, 200, (3, 5))}
STEPS: Feed = {"x": draw(6, 2, 24)}
LSTM = "h, a, b = LSTM <hidden_size=32> (x, W, R)  y = Identity (h)"

MODELS: dict[str, tuple[ModelProto, Feed]] = {
    "Conv": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = Conv (x, W) }", W=draw(32, 16, 3, 3)
        ),
        IMAGE,
    ),
    "Conv groups": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = Conv <group=4> (x, W) }",
            W=draw(64, 4, 3, 3),
        ),
        IMAGE,
    ),
    "ConvTranspose": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = ConvTranspose (x, W) }",
            W=draw(16, 32, 3, 3),
        ),
        IMAGE,
    ),
    "ConvTranspose groups": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = ConvTranspose <group=4> (x, W) }",
            W=draw(16, 24, 3, 3),
        ),
        IMAGE,
    ),
    "Gemm": (
        build(
            "g (float[4,96] x) => (float[?,?] y) { y = Gemm <alpha=0.5, beta=2.0> (x, W, c) }",
            W=draw(96, 64),
            c=draw(64),
        ),
        ROWS,
    ),
    "Gemm turned": (
        build(
            "g (float[4,96] x) => (float[?,?] y) { y = Gemm <transB=1> (x, W, c) }",
            W=draw(64, 96),
            c=draw(64),
        ),
        ROWS,
    ),
    "MatMul": (
        build("g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(96, 64)),
        ROWS,
    ),
    "MatMul from the left": (
        build("g (float[96,4] x) => (float[?,?] y) { y = MatMul (W, x) }", W=draw(64, 96)),
        {"x": draw(96, 4)},
    ),
    "MatMul batch": (
        build("g (float[3,4,96] x) => (float[?,?,?] y) { y = MatMul (x, W) }", W=draw(3, 96, 64)),
        {"x": draw(3, 4, 96)},
    ),
    "Gather": (
        build("g (int64[3,5] i) => (float[?,?,?] y) { y = Gather (W, i) }", W=draw(200, 64)),
        IDS,
    ),
    "Gather along columns": (
        build(
            "g (int64[3,5] i) => (float[?,?,?] y) { y = Gather <axis=1> (W, i) }", W=draw(64, 200)
        ),
        IDS,
    ),
    "LSTM": (
        build(
            f"g (float[6,2,24] x) => (float[?,?,?,?] y) {{ {LSTM} }}",
            W=0.2 * draw(1, 128, 24),
            R=0.2 * draw(1, 128, 32),
        ),
        STEPS,
    ),
    "tied embedding": (
        build(
            "g (int64[3,5] i) => (float[?,?,?] y) "
            "{ h = Gather (W, i)  T = Transpose <perm=[1,0]> (W)  y = MatMul (h, T) }",
            W=draw(200, 64),
        ),
        IDS,
    ),
    "branch": (branching(), {**ROWS, "c": np.array(True)}),
    "Constant node": (constant_nodes(), ROWS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("bits", "smaller", "allowed"), [(8, 2.5, 0.03), (16, 1.8, 0.001)])
def test_weights_take_fewer_bytes_and_outputs_stay_near(name, bits, smaller, allowed):
    proto, feed = MODELS[name]
    small, report = quant(proto, feed, bits=bits)
    assert report.modified
    assert proto.ByteSize() / small.ByteSize() > smaller
    assert error(proto, small, feed) < allowed
    assert list(small.graph.input) == list(proto.graph.input)
    assert list(small.graph.output) == list(proto.graph.output)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_second_run_changes_nothing_and_says_why(name, bits):
    proto, feed = MODELS[name]
    once, _ = quant(proto, feed, bits=bits)
    twice, report = quant(once, feed, bits=bits)
    assert not report.modified
    assert report.skipped
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_portable_target_gets_operators_of_onnx_alone(name):
    proto, feed = MODELS[name]
    small, _ = quant(proto, feed, targets.load("portable"), bits=8)
    assert {node.domain for node in all_nodes(small.graph)} <= {"", "ai.onnx"}
    assert {entry.domain for entry in small.opset_import} <= {"", "ai.onnx"}
    assert all(entry.version <= 17 for entry in small.opset_import)
    assert error(proto, small, feed) < 0.03


@pytest.mark.parametrize("name", MODELS)
def test_float_activations_have_no_integer_products(name):
    proto, feed = MODELS[name]
    small, report = quant(proto, feed, bits=8, activations="float")
    assert report.modified
    assert not ops(small) & {"MatMulInteger", "DynamicQuantizeLinear", "ConvInteger"}
    assert error(proto, small, feed) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_equal_models_get_equal_bytes(name):
    proto, feed = MODELS[name]
    first, second = (quant(proto, feed, bits=8)[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_products_are_integer_where_the_target_is_faster_so():
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(256, 256))
    feed = {"x": draw(4, 256)}
    assert "MatMulInteger" in ops(quant(proto, feed, bits=8)[0])
    slow = dataclasses.replace(FAST, speed={"dynamic": [[1, 1, 0.5, 0.5, 0.5]]})
    assert "MatMulInteger" not in ops(quant(proto, feed, slow, bits=8)[0])


def test_two_products_of_one_input_quantize_it_once():
    proto = build(
        "g (float[4,256] x) => (float[?,?] y) { a = MatMul (x, W)  b = MatMul (x, V)  "
        "y = Add (a, b) }",
        W=draw(256, 256),
        V=draw(256, 256),
    )
    small, _ = quant(proto, {"x": draw(4, 256)}, bits=8)
    found = [node.op_type for node in small.graph.node]
    assert found.count("MatMulInteger") == 2
    assert found.count("DynamicQuantizeLinear") == 1


def test_a_table_is_never_decoded_before_rows_are_picked():
    proto, feed = MODELS["Gather"]
    small, _ = quant(proto, feed, bits=8)
    (codes,) = (t for t in small.graph.initializer if t.data_type == onnx.TensorProto.INT8)
    readers = {node.op_type for node in small.graph.node if codes.name in node.input}
    assert readers == {"Gather"}


def test_a_tied_embedding_is_stored_once():
    proto, feed = MODELS["tied embedding"]
    small, _ = quant(proto, feed, bits=8)
    large = [t for t in small.graph.initializer if np.prod(t.dims) >= 200 * 64]
    assert len(large) == 1
    assert large[0].data_type == onnx.TensorProto.INT8


@settings(max_examples=25)
@given(
    outputs=st.integers(1, 24),
    inputs=st.integers(1, 8),
    kernel=st.integers(4, 5),
    spread=st.floats(-6, 6),
)
def test_each_weight_is_within_half_a_step_of_its_channel(outputs, inputs, kernel, spread):
    rng = np.random.default_rng(outputs)
    size = 10.0 ** rng.uniform(-abs(spread), abs(spread), (outputs, 1, 1, 1))
    weight = (size * rng.standard_normal((outputs, inputs, kernel, kernel))).astype("float32")
    padding = draw(64, inputs, kernel, kernel) * 1e-3
    weight = np.concatenate([weight, padding]).astype("float32")
    shape = f"1,{inputs},{kernel},{kernel}"
    proto = build(f"g (float[{shape}] x) => (float[?,?,?,?] y) {{ y = Conv (x, W) }}", W=weight)
    small, report = quant(proto, {"x": draw(1, inputs, kernel, kernel)}, bits=8)
    assert report.modified
    stored = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    (codes,) = (a for a in stored.values() if a.dtype == np.int8)
    (scale,) = (a for a in stored.values() if a.dtype == np.float32)
    assert codes.shape == weight.shape
    assert scale.shape == (outputs + 64, 1, 1, 1)
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(codes * scale.astype("float64") - weight) <= 0.5001 * step + 1e-37).all()


def test_very_short_rows_are_kept_as_float16():
    """Nine columns, as in depthwise kernels: a scale for each would cost almost as much."""
    proto = build(
        "g (float[1,256,6,6] x) => (float[?,?,?,?] y) { y = Conv <group=256> (x, W) }",
        W=draw(256, 1, 3, 3),
    )
    feed = {"x": draw(1, 256, 6, 6)}
    small, report = quant(proto, feed, bits=8)
    assert report.modified
    kinds = {t.data_type for t in small.graph.initializer if len(t.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert error(proto, small, feed) < 0.001


def test_channels_of_zeros_stay_zeros():
    weight = draw(64, 64)
    weight[:, 3] = 0
    proto = build("g (float[4,64] x) => (float[?,?] y) { y = MatMul (x, W) }", W=weight)
    for bits in (8, 16):
        (out,) = run(quant(proto, {"x": draw(4, 64)}, bits=bits)[0], {"x": draw(4, 64)})
        assert not out[:, 3].any()


def codes_of(proto: ModelProto) -> np.ndarray:
    arrays = [
        numpy_helper.to_array(t).reshape(-1)
        for t in proto.graph.initializer
        if t.data_type == onnx.TensorProto.INT8
    ]
    return np.concatenate(arrays).astype(int)


@pytest.mark.parametrize(("target", "top"), [("avx2", 63), ("avx512-vnni", 127)])
def test_codes_keep_out_of_saturation_where_products_saturate(target, top):
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(256, 256))
    feed = {"x": draw(16, 256)[:4]}
    sure = dataclasses.replace(targets.load(target), speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]})
    small, _ = quant(proto, feed, sure, bits=8)
    assert "MatMulInteger" in ops(small)
    assert np.abs(codes_of(small)).max() == top


def test_a_saturating_target_still_uses_eight_bits_where_nothing_is_multiplied():
    proto, feed = MODELS["Gather"]
    small, _ = quant(proto, feed, targets.load("avx2"), bits=8)
    assert np.abs(codes_of(small)).max() == 127


def test_inputs_with_outliers_stay_float():
    proto = build("g (float[64,512] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(512, 256))
    plain = draw(64, 512)
    wild = plain.copy()
    wild[0, 7] = 1000
    assert "MatMulInteger" in ops(quant(proto, {"x": plain}, bits=8)[0])
    small, _ = quant(proto, {"x": wild}, bits=8)
    assert "MatMulInteger" not in ops(small)
    assert error(proto, small, {"x": wild}) < 0.02


# ------------------------------------------------------------------------------- operator sets


def test_an_old_operator_set_is_raised_where_a_form_needs_it():
    proto = build(
        "g (float[1,256] x) => (float[?,?] y) { h = MatMul (x, W)  s = Squeeze <axes=[0]> (h)"
        "  y = Unsqueeze <axes=[0]> (s) }",
        opset=10,
        W=draw(256, 256),
    )
    feed = {"x": draw(1, 256)}
    wanted = dataclasses.replace(FAST, speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]})
    small, report = quant(proto, feed, wanted, bits=8)
    assert "MatMulInteger" in ops(small)
    assert small.opset_import[0].version >= 11
    assert any("raised from 10" in entry.text for entry in report.changes)
    assert error(proto, small, feed) < 0.03


def test_where_it_cannot_be_raised_the_codec_is_chosen_and_the_reason_given():
    proto = build(
        "g (float[4,256] x) => (float[?,?] y, float[?,?] z) { y = MatMul (x, W)  "
        'z = Upsample <mode="nearest"> (x, scales) }',
        opset=9,
        W=draw(256, 256),
        scales=np.float32([1, 2]),
    )
    feed = {"x": draw(4, 256)}
    small, report = quant(proto, feed, bits=8)
    assert small.opset_import[0].version == 9
    assert "MatMulInteger" not in ops(small)
    assert report.modified
    assert "Upsample" in reasons(report)
    assert error(proto, small, feed) < 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_operator_set_eleven_is_enough_for_what_it_has(bits):
    proto = build(
        "g (float[4,96] x) => (float[?,?] y) { h = MatMul (x, W)  y = Softmax <axis=0> (h) }",
        opset=11,
        W=draw(96, 64),
    )
    small, report = quant(proto, ROWS, bits=bits)
    assert report.modified
    assert small.opset_import[0].version == 11
    assert error(proto, small, ROWS) < 0.1


# ------------------------------------------------------------------------------- left alone


def alone(proto: ModelProto, feed: Feed, reason: str, **options: object) -> None:
    small, report = quant(proto, feed, **options)
    assert not report.modified
    assert small.SerializeToString(deterministic=True) == proto.SerializeToString(
        deterministic=True
    )
    assert reason in reasons(report)


PRODUCT = "g (float[4,96] x) => (float[?,?] y) { %s  y = MatMul (x, W) }"


@pytest.mark.parametrize(
    "line",
    [
        "W = DequantizeLinear (q, s)",
        "f = Cast <to=1> (q)  W = Mul (f, s)",
        "f = Cast <to=1> (q)  t = Transpose <perm=[0,1]> (f)  W = Mul (t, s)",
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_quantized_already_is_left_alone(line, bits):
    proto = build(PRODUCT % line, q=RNG.integers(-9, 9, (96, 64)).astype("int8"), s=np.float32(0.1))
    alone(proto, ROWS, "already quantized", bits=bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_hold_no_numbers_are_left_alone(number, bits):
    weight = draw(96, 64)
    weight[3, 3] = number
    alone(build(PRODUCT % "", W=weight), ROWS, "NaN or infinity", bits=bits)


def test_weights_beyond_half_precision_are_left_alone():
    weight = draw(96, 64)
    weight[3, 3] = 70_000
    proto = build(PRODUCT % "", W=weight)
    alone(proto, ROWS, "65504", bits=16)
    assert quant(proto, ROWS, bits=8)[1].modified


@pytest.mark.parametrize("bits", [8, 16])
def test_an_old_operator_set_is_not_raised_for_nothing(bits):
    weight = draw(256, 256)
    weight[0, 0] = np.nan
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", opset=10, W=weight)
    alone(proto, {"x": draw(4, 256)}, "NaN", bits=bits)


@pytest.mark.parametrize("bits", [8, 16])
def test_small_weights_are_left_alone(bits):
    proto = build("g (float[4,4] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(4, 4))
    alone(proto, {"x": draw(4, 4)}, "too small", bits=bits)


def test_half_precision_weights_are_sixteen_bits_already():
    proto = build(
        "g (float16[4,96] x) => (float16[?,?] y) { y = MatMul (x, W) }",
        W=draw(96, 64, dtype="float16"),
    )
    feed = {"x": draw(4, 96, dtype="float16")}
    alone(proto, feed, "already 16 bits", bits=16)


@pytest.mark.parametrize(("kind", "name"), [("float16", "float16"), ("float64", "double")])
def test_weights_of_other_float_types_take_eight_bits(kind, name):
    proto = build(
        f"g ({name}[4,96] x) => ({name}[?,?] y) {{ y = MatMul (x, W) }}",
        W=draw(96, 64, dtype=kind),
    )
    feed = {"x": draw(4, 96, dtype=kind)}
    small, report = quant(proto, feed, bits=8)
    assert report.modified
    assert run(small, feed)[0].dtype == np.dtype(kind)
    assert error(proto, small, feed) < 0.03


def test_double_precision_takes_sixteen_bits():
    proto = build(
        "g (double[4,96] x) => (double[?,?] y) { y = MatMul (x, W) }",
        W=draw(96, 64, dtype="float64"),
    )
    feed = {"x": draw(4, 96, dtype="float64")}
    small, report = quant(proto, feed, bits=16)
    assert report.modified
    assert error(proto, small, feed) < 0.001


def test_a_weight_that_the_model_gives_out_is_left_alone():
    proto = build(
        "g (float[4,96] x) => (float[?,?] y, float[?,?] W) { y = MatMul (x, W) }", W=draw(96, 64)
    )
    alone(proto, ROWS, "gives it out", bits=8)


def test_a_weight_that_callers_may_override_is_left_alone():
    proto = build(
        "g (float[4,96] x, float[96,64] W) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(96, 64)
    )
    alone(proto, ROWS, "override", bits=8)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_model_without_weights_is_left_alone(bits):
    proto = build("g (float[4,96] x) => (float[?,?] y) { y = Relu (x) }")
    small, report = quant(proto, ROWS, bits=bits)
    assert not report.modified
    assert small == proto


def test_the_part_of_a_model_that_fits_is_quantized_and_the_rest_named():
    bad = draw(96, 64)
    bad[0, 0] = np.nan
    proto = build(
        "g (float[4,96] x) => (float[?,?] y, float[?,?] z) "
        "{ y = MatMul (x, W)  z = MatMul (x, V) }",
        W=draw(96, 64),
        V=bad,
    )
    small, report = quant(proto, ROWS, bits=8)
    assert [entry.subject for entry in report.changes if entry.subject in "VW"] == ["W"]
    assert [entry.subject for entry in report.skipped] == ["V"]
    left = [weight.name for weight in find_weights(from_proto(small))]
    assert left == ["V"]


# ----------------------------------------------------------------------------------- settings


def test_without_bits_the_strongest_setting_comes_first():
    context = Context(FAST, ROWS)
    assert [str(setting) for setting in Quant().settings(context)] == [
        "quant(bits=8, activations='int8')",
        "quant(bits=8, activations='float')",
        "quant(bits=16)",
    ]
    assert not Quant().obeyed


def test_given_numbers_are_the_only_setting():
    given = Quant(bits=16)
    assert given.settings(Context(FAST, ROWS)) == (given,)
    assert given.obeyed


def test_given_activations_are_kept_in_every_setting_of_eight_bits():
    for setting in Quant(activations="float").settings(Context(FAST, ROWS)):
        assert setting.bits == 16 or setting.activations == "float"
