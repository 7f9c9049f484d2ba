"""prune(sparsity=...): the smallest weights of each layer go."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from onnx_compress import compress
from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.ir.weights.densify import densify
from onnx_compress.passes import Context, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.prune import Prune

from models_by_text import (
    build,
    draw,
    same_numbers_in_any_order,  # noqa: F401
)


def prune(
    proto: ModelProto, sparsity: float | None, fit: tuple[dict[str, np.ndarray], ...] = ()
) -> tuple[dict[str, np.ndarray], Report]:
    """The weights afterwards, and the report."""
    before = proto.SerializeToString()
    model = from_proto(proto)
    report = Prune(sparsity=sparsity).run(model, Context(targets.load("avx2"), {}, fit))
    invariants.check(model)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(to_proto(model))
    densify(model)
    result = to_proto(model)
    return {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}, report


PRODUCT = "g (float[4,%d] x) => (float[?,?] y) { y = MatMul (x, W) }"


@settings(max_examples=40)
@given(
    rows=st.integers(8, 20),
    columns=st.integers(8, 20),
    sparsity=st.floats(0, 0.99),
    steps=st.sampled_from([0, 1, 4]),
)
def test_exactly_the_smallest_share_goes(rows, columns, sparsity, steps):
    weight = draw(rows, columns) + np.float32(3) * (steps == 0)
    if steps:
        weight = np.round(weight * steps) / steps + np.float32(0.1)  # many equal ones
    weight = weight.astype("float32")
    weight[weight == 0] = 1
    (after,), report = (lambda got: (list(got[0].values()), got[1]))(
        prune(build(PRODUCT % rows, W=weight), sparsity)
    )
    dropped = int(sparsity * weight.size)
    assert int((after == 0).sum()) == dropped
    assert np.array_equal(after[after != 0], weight[after != 0])
    if dropped:
        assert np.abs(weight[after == 0]).max() <= np.abs(weight[after != 0]).min()
    assert report.modified == bool(dropped)


def test_every_layer_loses_its_own_share():
    proto = build(
        "g (float[4,16] x) => (float[?,?] y) { h = MatMul (x, A)  y = MatMul (h, B) }",
        A=draw(16, 16),
        B=100 * draw(16, 16),
    )
    after, report = prune(proto, 0.5)
    assert [int((after[name] == 0).sum()) for name in "AB"] == [128, 128]
    assert {entry.subject for entry in report.changes} == {"A", "B"}


@pytest.mark.parametrize(
    "line",
    [
        "y = Conv (x, W)",
        "y = Conv <group=2> (x, V)",
        "y = ConvTranspose (x, W)",
    ],
)
def test_convolutions_are_pruned(line):
    proto = build(
        f"g (float[1,8,6,6] x) => (float[?,?,?,?] y) {{ {line} }}",
        W=draw(8, 8, 3, 3),
        V=draw(8, 4, 3, 3),
    )
    after, _ = prune(proto, 0.25)
    name = "V" if "V" in line else "W"
    assert int((after[name] == 0).sum()) == after[name].size // 4


def test_biases_stay():
    proto = build(
        "g (float[4,16] x) => (float[?,?] y) { y = Gemm (x, W, c) }", W=draw(16, 128), c=draw(128)
    )
    assert (prune(proto, 0.9)[0]["c"] != 0).all()


@pytest.mark.parametrize(
    "lines",
    [
        "y = Gather (W, i)",
        "h = Gather (W, i)  T = Transpose <perm=[1,0]> (W)  y = MatMul (h, T)",
    ],
)
def test_tables_that_rows_are_picked_from_stay(lines):
    weight = draw(32, 16)
    after, report = prune(
        build(f"g (int64[3,5] i) => (float[?,?,?] y) {{ {lines} }}", W=weight), 0.5
    )
    assert np.array_equal(after["W"], weight)
    assert any(entry.subject == "W" and "picked" in entry.text for entry in report.skipped)
    assert not report.modified


def test_very_small_weights_stay():
    weight = draw(7, 9)
    after, report = prune(build(PRODUCT % 7, W=weight), 0.5)
    assert np.array_equal(after["W"], weight)
    assert any("only 63" in entry.text for entry in report.skipped)


@pytest.mark.parametrize("kind", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_float_types_are_pruned_and_keep_their_type(kind):
    proto = build(
        "g (float[4,16] x) => (float[?,?] y) { C = Cast <to=1> (W)  y = MatMul (x, C) }",
        W=draw(16, 16).astype(kind),
    )
    after, _ = prune(proto, 0.5)
    assert after["W"].dtype == np.dtype(kind)
    assert int((after["W"] == 0).sum()) == 128


def test_weights_that_hold_nan_keep_it():
    weight = draw(16, 16)
    weight[2, 3] = np.nan
    after, _ = prune(build(PRODUCT % 16, W=weight), 0.9)
    assert np.isnan(after["W"]).sum() == 1
    assert np.isnan(after["W"][2, 3])


def test_the_report_says_that_zeros_save_nothing():
    _, report = prune(build(PRODUCT % 16, W=draw(16, 16)), 0.5)
    assert "50%" in report.summary
    assert any("neither bytes nor time" in note for note in report.notes)


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.99])
def test_a_second_run_changes_nothing(sparsity):
    weight = draw(16, 16)
    once, _ = prune(build(PRODUCT % 16, W=weight), sparsity)
    twice, report = prune(build(PRODUCT % 16, W=once["W"]), sparsity)
    assert np.array_equal(once["W"], twice["W"])
    assert not report.modified


def test_without_a_number_and_without_data_nothing_is_done_with_a_reason():
    weight = draw(16, 16)
    after, report = prune(build(PRODUCT % 16, W=weight), None)
    assert np.array_equal(after["W"], weight)
    assert not report.modified
    assert any("--calib" in entry.text for entry in report.skipped)


def test_without_a_number_but_with_data_there_are_settings_the_strongest_first():
    feed = {"x": draw(4, 16)}
    context = Context(targets.load("avx2"), feed, (feed,))
    shares = [setting.channels for setting in Prune().settings(context)]
    assert len(shares) > 1
    assert shares == sorted(shares, reverse=True)


def test_a_given_number_is_the_only_setting():
    feed = {"x": draw(4, 16)}
    given = Prune(sparsity=0.4)
    assert given.settings(Context(targets.load("avx2"), feed, (feed,))) == (given,)
    assert given.obeyed
    assert not Prune().obeyed


def test_an_old_operator_set_is_raised_where_zeros_can_be_left_out_then():
    proto = build(
        "g (float[1,64] x) => (float[?,?] y) { a = MatMul(x, W) "
        "y = Slice<starts=[0], ends=[8], axes=[1]>(a) }",
        opset=9,
        W=np.random.default_rng(0).standard_normal((64, 256)).astype("f"),
    )
    result = compress(proto, "prune(sparsity=0.7)", measure=False)
    assert result.model.opset_import[0].version == 11
    assert result.report.ratio > 2
