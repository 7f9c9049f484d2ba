"""quant: convolutions of integers, with scales of activations that samples gave."""

import dataclasses

import numpy as np
import pytest
from onnx import numpy_helper
from static_stretches import (
    ALWAYS,
    NUMBERS,
    RESIDUAL,
    error,
    executed,
    feeds,
    kernels,
    quant,
    residual,
    weights,
)

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

from models_by_text import all_ops, build, run


def test_a_whole_chain_is_fused_into_operators_of_integers(tmp_path):
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, report = quant(proto, fit, activations="int8")
    assert "4 static" in report.summary
    ran = executed(small, fit[0], tmp_path)
    assert ran["QLinearConv"] == 4
    assert ran["QLinearAdd"] == ran["QLinearSigmoid"] == ran["QLinearMul"] == 1
    assert ran["QLinearGlobalAveragePool"] == 1
    assert ran["QuantizeLinear"] == ran["DequantizeLinear"] == 1  # in, and out
    for op in ("Conv", "Relu", "Clip", "Add", "Mul", "Sigmoid", "MaxPool", "FusedConv"):
        assert op not in ran
    assert error(proto, small, feeds(1, 8, 12, 12, count=4)) < 0.05


def test_weights_are_not_fitted_to_the_noise_of_bytes():
    """That would make them smaller, layer by layer: all are fitted to what the original sees."""
    proto, fit = residual(), feeds(1, 8, 12, 12)
    fitted, _ = quant(proto, fit)
    assert fitted == quant(proto, fit, sequential=False)[0]


def test_what_the_runtime_fuses_is_what_the_nodes_say():
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    for feed in fit[:3]:
        fused, plain = run(small, feed)[0], run(small, feed, optimized=False)[0]
        step = np.abs(plain).max() / 100
        assert np.abs(fused - plain).max() <= 2 * step


def test_without_data_activations_stay_float():
    model = from_proto(residual())
    Quant(bits=8).run(model, Context(ALWAYS, feeds(1, 8, 12, 12)[0]))
    assert "QuantizeLinear" not in all_ops(to_proto(model))


def test_float_activations_are_obeyed():
    small, _ = quant(residual(), feeds(1, 8, 12, 12), activations="float")
    assert "QuantizeLinear" not in all_ops(small)


def test_a_target_without_fast_convolutions_of_bytes_has_none():
    slow = dataclasses.replace(ALWAYS, convolutions={"static": [[1, 1, 1, 0.5]]})
    for target in (slow, dataclasses.replace(ALWAYS, convolutions={})):
        small, _ = quant(residual(), feeds(1, 8, 12, 12), target)
        assert "QuantizeLinear" not in all_ops(small)


def test_codes_keep_out_of_saturation():
    small, _ = quant(residual(), feeds(1, 8, 12, 12), activations="int8")
    arrays = [numpy_helper.to_array(t) for t in small.graph.initializer if t.data_type == 3]
    for codes in [array for array in arrays if array.ndim == 4 and array.shape[1] > 1]:
        runs = codes.astype(int).transpose(0, 2, 3, 1).reshape(len(codes), -1)  # place by place
        assert np.abs(runs[:, :-1:2] + runs[:, 1::2]).max() <= 128
        assert np.abs(runs).max() > 90


@pytest.mark.parametrize(("samples", "integers"), [(1, False), (8, True)])
def test_a_range_of_few_numbers_is_not_trusted(samples, integers):
    """The next sample would often be outside, and cut off."""
    proto = build(
        "g (float[1,2,2,2] x) => (float[?,?,?,?] y) "
        "{ h = Conv <pads=[1,1,1,1]> (x, W)  y = Relu (h) }",
        **weights(W=(64, 2, 3, 3)),
    )
    small, _ = quant(proto, feeds(1, 2, 2, 2, count=samples))
    assert ("QuantizeLinear" in all_ops(small)) == integers


@pytest.mark.parametrize(
    "line",
    [
        "c = Identity (b)  h = Conv (x, W, c)  r = Relu (h)  m = Mul (r, two)",
        "c = Identity (b)  V = Identity (W)  h = Conv (x, V, c)  r = Relu (h)  m = Mul (r, two)",
        "h = Conv (x, W, b)  i = Identity (h)  r = Relu (i)  m = Mul (r, two)",
        "t = Identity (two)  h = Conv (x, W, b)  r = Relu (h)  m = Mul (t, r)",
    ],
)
def test_stretches_reach_over_identity(line):
    """With the very same numbers as without it."""
    plain = "h = Conv (x, W, b)  r = Relu (h)  m = Mul (r, two)"
    found = []
    for lines in (plain, line):
        text = f"g (float[1,8,6,6] x) => (float[?,?,?,?] y) {{ {lines}  y = Conv (m, U) }}"
        numbers = weights(W=(32, 8, 3, 3), b=(32,), U=(32, 32, 2, 2))
        proto = build(text, two=np.float32(2), **numbers)
        small, report = quant(proto, feeds(1, 8, 6, 6))
        found.append((report.changes, run(small, feeds(1, 8, 6, 6)[0])[0]))
    (changes, one), (others, other) = found
    assert changes == others
    assert all("static" in entry.text for entry in changes)
    np.testing.assert_array_equal(one, other)


def test_dead_channels_keep_their_bias():
    """Weights next to nothing make the scale of the bias so small that int32 would not hold it."""
    numbers = dict(NUMBERS, w1=NUMBERS["w1"].copy())
    numbers["w1"][3] *= 1e-30
    proto, fit = build(RESIDUAL, **numbers), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    assert error(proto, small, fit) < 0.05


def test_an_excluded_convolution_is_not_quantized_behind_our_back():
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, exclude=("w2",), activations="int8")
    kept = next(t for t in small.graph.initializer if t.name == "w2")
    assert kept.data_type == 1
    wide = dict(
        NUMBERS, w2=NUMBERS["w2"] * np.float32(10.0) ** np.resize(np.arange(-8, 8), (64, 1, 1, 1))
    )
    proto = build(RESIDUAL, **{k: v.astype("float32") for k, v in wide.items()})
    small, _ = quant(proto, fit, exclude=("w2",), activations="int8")
    fused, plain = run(small, fit[0])[0], run(small, fit[0], optimized=False)[0]
    assert np.abs(fused - plain).max() <= 0.03 * np.abs(plain).max()


def test_a_factor_costs_nothing(tmp_path):
    proto = build(
        """g (float[1,32,12,12] x) => (float[?,?,?,?] y) {
            a = Conv(x, w1) t = Add(a, three) h = Clip(t, low, high) m = Mul(a, h)
            s = Div(m, high) y = Conv(s, w2) }""",
        **weights(w1=(64, 32, 1, 1), w2=(32, 64, 1, 1)),
        low=np.float32(0),
        high=np.float32(6),
        three=np.float32(3),
    )
    fit = feeds(1, 32, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    ran = executed(small, fit[0], tmp_path)
    assert ran["QLinearConv"] == 2
    assert not {"Div", "Mul", "Clip", "Add", "Conv"} & ran.keys()
    assert error(proto, small, fit) < 0.05


def test_equal_inputs_give_equal_bytes():
    first, second = (quant(residual(), feeds(1, 8, 12, 12))[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_second_run_changes_nothing():
    fit = feeds(1, 8, 12, 12)
    small, _ = quant(residual(), fit)
    again, report = quant(small, fit)
    assert not [e for e in report.changes if e.subject != "operator set"]
    assert len(again.graph.node) == len(small.graph.node)


def test_a_small_model_does_not_grow():
    proto = build(
        "g (float[1,4,8,8] x) => (float[?,?,?,?] y) { y = Conv(x, w) }", **weights(w=(6, 4, 1, 1))
    )
    small, report = quant(proto, feeds(1, 4, 8, 8), activations="int8")
    assert not report.modified
    assert small.ByteSize() <= proto.ByteSize()


# ------------------------------------------------------------------------------------ the cut


# --------------------------------------------------------------------------- channels of outputs


def test_what_takes_longer_to_start_than_it_saves_stays_float():
    _, report = quant(residual(), feeds(1, 8, 12, 12), dataclasses.replace(ALWAYS, start=1e9))
    assert "static" not in report.summary


POOLED = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    z = %s(a)
    p = %s<kernel_shape=[3,3], pads=[1,1,1,1]>(z)
    y = Conv(p, w2)
}"""


@pytest.mark.parametrize(
    ("before", "pool", "bytes_"),
    [
        ("Relu", "MaxPool", True),
        ("Tanh", "MaxPool", False),
        ("Sigmoid", "MaxPool", False),  # the runtime has channels first there: 50 times slower
        ("Relu", "AveragePool", False),
    ],
)
def test_pools_are_of_bytes_where_the_runtime_is_fast(before, pool, bytes_):
    numbers = weights(w1=(64, 8, 3, 3), w2=(64, 64, 1, 1))
    proto, fit = build(POOLED % (before, pool), **numbers), feeds(1, 8, 12, 12)
    target = dataclasses.replace(targets.load("avx2"), convolutions={"static": [[1, 1, 1, 9.0]]})
    small, _ = quant(proto, fit, target)
    (node,) = [node for node in small.graph.node if node.op_type == pool]
    (maker,) = [other for other in small.graph.node if node.input[0] in other.output]
    assert (maker.op_type in ("QuantizeLinear", "DequantizeLinear")) == bytes_


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_old_operator_sets_are_raised_before_anything_is_tried(opset):
    """What stays float is looked for with QuantizeLinear, which old sets do not have."""
    text = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        c = %s
        y = Conv(c, w2)
    }"""
    cut = "Slice<starts=[0], ends=[6], axes=[2]>(b)" if opset < 10 else "Relu(b)"
    proto = build(text % cut, opset=opset, **weights(w1=(32, 8, 3, 3), w2=(16, 32, 3, 3)))
    fit = feeds(1, 8, 12, 12)
    small, report = quant(proto, fit)
    assert "static" in report.summary
    assert small.opset_import[0].version >= 13
    assert error(proto, small, fit) < 0.1


def test_pools_of_floats_stay_so_where_bytes_follow(tmp_path):
    """The runtime would move QuantizeLinear in front of them."""
    text = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        z = Softplus(a)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(z)
        y = Conv(p, w2)
    }"""
    numbers = weights(w1=(64, 8, 3, 3), w2=(64, 64, 1, 1))
    proto, fit = build(text, **numbers), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    ran = kernels(small, fit[0], tmp_path)
    (pool,) = [each for each in ran if "MaxPool" in each["op_name"]]
    assert list(pool["input_type_shape"][0]) == ["float"]
    assert any(each["op_name"] == "QLinearConv" for each in ran)
    assert error(proto, small, fit) < 0.05
