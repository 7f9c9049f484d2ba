"""quant: the numbers that are stored, for each channel and each type of float."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_compress.passes.quant import Quant

from models_by_text import (
    build,
    draw,
    error,
    quant,
    run,
    same_numbers_in_any_order,  # noqa: F401
)


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


def test_scales_along_inputs_are_not_taken_for_those_of_outputs():
    """ConvTranspose with groups of one output: each input channel has a scale of its own."""
    w = draw(24, 1, 2, 2) * np.linspace(0.1, 3, 24, dtype=np.float32).reshape(-1, 1, 1, 1)
    proto = build("g (float[2,24,7,4] x) => (float y) { y = ConvTranspose <group=2> (x, w) }", w=w)
    feed = {"x": draw(2, 24, 7, 4)}
    small = Quant(bits=8)(proto, sample=feed, fit=[feed])
    assert error(proto, small, feed) < 0.02
