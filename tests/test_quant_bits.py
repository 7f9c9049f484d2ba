"""quant with fewer than eight bits: every kind of weight, data, mixed settings."""

import numpy as np
import onnx
import pytest
from test_quant_kinds import MODELS

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.runtime import executed
from onnx_compress.passes import Context, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

from models_by_text import (
    FAST,
    Feed,
    all_ops,
    build,
    draw,
    error,
    quant,
    reasons,
    run,
    same_numbers_in_any_order,  # noqa: F401
)

LOW = (6, 5, 4, 3, 2, 1.58, 1)
ALLOWED = {6: 0.06, 5: 0.1, 4: 0.2, 3: 0.4, 2: 0.7, 1.58: 0.8, 1: 0.95}


def fitted(proto, feeds: list[Feed], target=FAST, **options):
    """Quantized with data."""
    model = from_proto(proto)
    report = Quant(**options).run(model, Context(target, feeds[0], feeds))
    small = to_proto(model)
    onnx.checker.check_model(small, full_check=True)
    return small, report


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", LOW)
def test_every_kind_of_weight_takes_few_bits(name, bits):
    proto, feed = MODELS[name]
    small, report = quant(proto, feed, bits=bits)
    assert report.modified
    # of so small a weight the nodes that unpack it take about as much as is saved
    assert small.ByteSize() <= 1.01 * quant(proto, feed, bits=8)[0].ByteSize()
    assert error(proto, small, feed) < ALLOWED[bits]
    assert list(small.graph.output) == list(proto.graph.output)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [4, 1])
def test_with_data_too_and_a_second_run_does_nothing(name, bits):
    proto, feed = MODELS[name]
    small, report = fitted(proto, [feed], bits=bits)
    assert report.modified
    assert error(proto, small, feed) < ALLOWED[bits]
    again, second = fitted(small, [feed], bits=bits)
    assert not second.modified
    assert again.SerializeToString(deterministic=True) == small.SerializeToString(
        deterministic=True
    )
    assert "already quantized" in reasons(second) or "too small" in reasons(second)
    same, _ = fitted(proto, [feed], bits=bits)
    assert same.SerializeToString(deterministic=True) == small.SerializeToString(deterministic=True)


# ------------------------------------------------------------------------------------ with data


def layers(depth: int = 3, width: int = 64):
    """Products with correlated inputs of large means, biases, and what is between them."""
    lines, weights = [], {}
    at = "x"
    for i in range(depth):
        last = "y" if i == depth - 1 else f"r{i}"
        lines.append(f"m{i} = MatMul ({at}, W{i})  a{i} = Add (m{i}, b{i})  {last} = Relu (a{i})")
        weights |= {f"W{i}": draw(width, width) / 8, f"b{i}": draw(width)}
        at = last
    text = "  ".join(lines)
    return build(
        f"g (float[?,{width}] x) => (float[?,?] y) {{ {text} }}",
        **{key: value.astype("float32") for key, value in weights.items()},
    )


def samples(count: int, width: int = 64) -> list[Feed]:
    mixing = np.random.default_rng(3).standard_normal((width, width)).astype("float32") / 8
    return [{"x": (draw(16, width) @ mixing + 1).astype("float32")} for _ in range(count)]


@pytest.mark.parametrize("bits", [4, 3, 2, 1.58, 1])
def test_data_make_it_closer_and_layers_in_sequence_closer_still(bits):
    proto, feeds, held = layers(), samples(24), samples(4)

    def mean_error(small):
        return np.mean([error(proto, small, feed) for feed in held])

    blind = mean_error(quant(proto, feeds[0], bits=bits)[0])
    at_once = mean_error(fitted(proto, feeds, bits=bits, sequential=False)[0])
    in_sequence = mean_error(fitted(proto, feeds, bits=bits)[0])
    assert at_once < 0.9 * blind
    assert in_sequence < at_once


@pytest.mark.parametrize("size", [0.0, 1e-43])
def test_data_that_say_nothing_do_no_harm(size):
    """Zeros and denormals leave nothing to solve for."""
    fits = [{name: array * np.float32(size) for name, array in f.items()} for f in samples(80)]
    small, _ = fitted(layers(), fits, bits=4)
    feed = samples(81)[-1]
    blind, _ = quant(layers(), feed, bits=4)
    assert error(layers(), small, feed) < 2 * error(layers(), blind, feed)


def test_eight_bits_are_closer_with_data():
    proto, feeds, held = layers(), samples(24), samples(4)
    blind = quant(proto, feeds[0], bits=8, activations="float")[0]
    seen = fitted(proto, feeds, bits=8, activations="float")[0]
    one, other = (sum(error(proto, small, feed) for feed in held) for small in (blind, seen))
    assert other < 0.8 * one


@pytest.mark.parametrize(
    ("line", "feed", "weights"),
    [
        ("y = Conv (x, W)", (4, 8, 9, 9), {"W": (24, 8, 3, 3)}),
        ("y = Conv (x, W, b)", (4, 8, 9, 9), {"W": (24, 8, 3, 3), "b": (24,)}),
        ("y = Conv <group=2> (x, W)", (4, 8, 9, 9), {"W": (64, 4, 5, 5)}),
        ("y = Conv <group=64> (x, W)", (2, 64, 9, 9), {"W": (64, 1, 5, 5)}),
        ("y = ConvTranspose (x, W)", (4, 16, 5, 5), {"W": (16, 32, 3, 3)}),
        ("y = ConvTranspose <group=2> (x, W)", (4, 16, 5, 5), {"W": (16, 32, 3, 3)}),
        ("y = Gemm (x, W, b)", (48, 64), {"W": (64, 64), "b": (64,)}),
        ("y = Gemm <transB=1, beta=0.5> (x, W, b)", (48, 64), {"W": (64, 64), "b": (64,)}),
        ("h = MatMul (x, W)  y = Add (b, h)", (48, 64), {"W": (64, 64), "b": (64,)}),
        ("h = MatMul (x, W)  y = Add (h, b)", (48, 64), {"W": (64, 64), "b": (1,)}),
        ("c = Identity (b)  y = Gemm (x, W, c)", (48, 64), {"W": (64, 64), "b": (64,)}),
        (
            "h = MatMul (x, W)  k = Identity (h)  c = Identity (b)  y = Add (c, k)",
            (48, 64),
            {"W": (64, 64), "b": (64,)},
        ),
        ("V = Identity (W)  y = Conv (x, V)", (4, 8, 9, 9), {"W": (64, 8, 3, 3)}),
    ],
)
def test_biases_make_up_for_shifted_means(line, feed, weights):
    proto = build(
        f"g (float[{','.join(map(str, feed))}] x) => (float[{','.join('?' * len(feed))}] y) "
        f"{{ {line} }}",
        **{name: draw(*shape) for name, shape in weights.items()},
    )
    feeds = [{"x": draw(*feed) + 2} for _ in range(8)]
    small, report = fitted(proto, feeds, bits=2)
    assert report.modified

    def shift(found):
        """Of means by channel, relative to how the outputs vary."""
        pairs = [(run(proto, f)[0], run(found, f)[0]) for f in feeds]
        axes = (0, 2, 3) if len(feed) == 4 else (0,)
        change = np.mean([(b - a).mean(axes) for a, b in pairs], 0)
        return np.abs(change).max() / np.std([a for a, _ in pairs])

    assert shift(small) < 0.02
    assert shift(quant(proto, feeds[0], bits=2)[0]) > 0.05


def test_a_bias_that_others_read_is_not_changed_for_them():
    proto = build(
        "g (float[48,64] x) => (float[?,?] y, float[64] z) "
        "{ h = MatMul (x, W)  y = Add (h, b)  z = Neg (b) }",
        W=draw(64, 64),
        b=draw(64),
    )
    feeds = [{"x": draw(48, 64) + 2} for _ in range(4)]
    small, _ = fitted(proto, feeds, bits=2)
    np.testing.assert_array_equal(run(small, feeds[0])[1], run(proto, feeds[0])[1])


# ------------------------------------------------------------------------------- mixed settings


MIXED = """g (int64[3,5] i) => (float[?,?,?] y) {
    h = Gather (E, i)  a = MatMul (h, A)  y = MatMul (a, B) }"""


def mixed():
    return build(MIXED, E=draw(200, 64), A=draw(64, 96), B=draw(96, 64))


def described(report) -> dict[str, str]:
    return {entry.subject: entry.text for entry in report.changes}


def test_bits_of_embeddings_and_of_names():
    feed = {"i": np.zeros((3, 5), np.int64)}
    _, report = quant(mixed(), feed, bits=2, embedding_bits=4, keep={"A": 6})
    text = described(report)
    assert "4 bits" in text["E"]
    assert "6 bits" in text["A"]
    assert "2 bits" in text["B"]


def test_very_short_rows_take_few_bits_if_their_name_is_given():
    proto = build(
        "g (float[1,256,6,6] x) => (float[?,?,?,?] y) { y = Conv <group=256> (x, W) }",
        W=draw(256, 1, 3, 3),
    )
    feed = {"x": draw(1, 256, 6, 6)}
    assert "float16" in described(quant(proto, feed, bits=4)[1])["W"]
    assert "int8" in described(quant(proto, feed, bits=4, keep={"W": 8})[1])["W"]


def test_options_come_back_from_text():
    for text in (
        "quant(bits=4, keep={'/head/*': 8, 'x': 1.58})",
        "quant(bits=1.58, block_size=64, zero_point=false)",
        "quant(bits=1, bases=3, embedding_bits=4, sequential=false)",
    ):
        assert str(Pipeline.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["quant(bits=7)", "quant(bits=4.0)", "quant(bits=4, keep={'a': 9})", "quant(keep=3)",
     "quant(bits=1, bases=5)", "quant(bits=4, block_size=8)"],
)  # fmt: skip
def test_wrong_options_are_named(text):
    with pytest.raises(OptionError):
        Pipeline.parse(text)


def test_a_hint_says_what_is_small_in_the_file_alone():
    proto, feed = MODELS["Conv"]
    _, report = quant(proto, feed, bits=4)
    assert any("small in the file alone" in note for note in report.notes)


# ---------------------------------------------------------------------------------------- forms


def test_products_take_the_kernel_where_the_target_is_faster_so():
    proto = build("g (float[1,1024] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(1024, 512))
    feed = {"x": draw(1, 1024)}
    small, report = quant(proto, feed, bits=4)
    assert "MatMulNBits" in all_ops(small)
    assert not report.notes
    assert error(proto, small, feed) < 0.2
    calm, _ = quant(proto, feed, bits=4, activations="float")
    assert "MatMulNBits" not in all_ops(calm)


def test_other_runtimes_get_dequantize_linear_which_is_fused():
    proto = build(
        "g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }",
        opset=21,
        ir=10,
        W=draw(256, 128),
    )
    feed = {"x": draw(4, 256)}
    small, _ = quant(proto, feed, targets.load("portable"), bits=4)
    assert {entry.domain for entry in small.opset_import} <= {"", "ai.onnx"}
    assert "DequantizeLinear" in all_ops(small)
    assert [op for op, _ in executed(from_proto(small), feed)] == ["MatMulNBits"]


def test_an_old_operator_set_takes_arithmetic_alone():
    proto = build(
        "g (float[4,96] x) => (float[?,?] y) { h = MatMul (x, W)  y = Softmax <axis=0> (h) }",
        opset=11,
        W=draw(96, 64),
    )
    small, report = quant(proto, {"x": draw(4, 96)}, targets.load("portable"), bits=4)
    assert report.modified
    assert small.opset_import[0].version == 11
    assert {entry.domain for entry in small.opset_import} <= {"", "ai.onnx"}


def test_recurrent_layers_take_longer_blocks():
    proto = build(
        "g (float[5,1,64] x) => (float[?,?,?,?] y) { y = LSTM <hidden_size=64> (x, W, R) }",
        W=draw(1, 256, 64),
        R=draw(1, 256, 64),
    )
    feed = {"x": draw(5, 1, 64)}
    sizes = [
        quant(proto, feed, bits=4, **options)[0].ByteSize()
        for options in ({}, {"block_size": 64}, {"block_size": 32})
    ]
    assert sizes[0] == sizes[1] < sizes[2]


def test_tables_of_more_bits_than_the_rest_take_longer_blocks():
    proto = build(
        "g (int64[4] i) => (float[?,?] y) { x = Gather (E, i)  y = MatMul (x, W) }",
        E=draw(2200, 128),  # smaller ones are decoded at load
        W=draw(128, 128),
    )
    feed = {"i": np.arange(4)}

    def size(**options):
        return quant(proto, feed, embedding_bits=4, **options)[0].ByteSize()

    rows = 2200 * 2 * (2 + 1)  # scales and zeros of two blocks
    assert 0.9 * rows < size(bits=2, block_size=32) - size(bits=2) < 1.1 * rows
    assert size(bits=4) == size(bits=4, block_size=32)
