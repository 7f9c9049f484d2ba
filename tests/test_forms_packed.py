"""Packed weights: what the graph computes is what `decode` says, for every operator and reader."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.graph.elements import np_dtype
from onnx_compress.ir.runtime import executed
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import PACKED_READERS, Dense, Packed, fit_half
from onnx_compress.ir.weights.order import order_of
from onnx_compress.kernels.radix import PACKINGS

from coded_weights import BODIES, emitted, same_bits, sample
from graphs import array, run, view

LEVELS = sorted(PACKINGS)


def packed(weight, levels=16, block=32, zeros=True, planes=1, half=False, readers=()) -> Packed:
    """Random codes in the form of a weight; uses are read by the first of `readers` that may."""
    use = weight.uses[0] if weight.uses else None
    order = order_of(weight.shape, use)
    rng = np.random.default_rng(order.rows)
    digits = PACKINGS[levels].digits
    block = min(block, -(-order.columns // digits) * digits)
    blocks = -(-order.columns // block)
    dtype = np_dtype(weight.element)
    kind = "float64" if dtype == "float64" else "float16" if half else "float32"
    form = Packed(
        codes=rng.integers(0, levels, (planes, order.rows, order.columns)).astype(np.uint8),
        scale=rng.uniform(0.05, 0.2, (planes, order.rows, blocks)).astype(kind),
        zero=rng.integers(0, levels, (order.rows, blocks)).astype(np.uint8)
        if zeros
        else np.float32((levels - 1) / 2 if planes > 1 else levels // 2),
        levels=levels,
        block=block,
        order=order,
        element=weight.element,
        dtype=str(dtype),
    )

    def reader(use):
        for name in readers:
            if PACKED_READERS[name].allows(use, form) is None:
                return name
        return "unpacked"

    return replace(form, readers={use: reader(use) for use in weight.uses})


# ------------------------------------------------------------------------------------ arithmetic


@given(st.sampled_from(LEVELS), st.integers(1, 9), st.integers(0, 1000))
def test_packing_comes_back(levels, words, seed):
    packing = PACKINGS[levels]
    codes = np.random.default_rng(seed).integers(0, levels, (3, words * packing.digits))
    bytes_ = packing.pack(codes.astype(np.uint8))
    assert bytes_.shape == (3, words, packing.width)
    np.testing.assert_array_equal(packing.unpack(bytes_), codes)


def test_packings_waste_nothing_but_for_three_levels():
    for levels, packing in PACKINGS.items():
        assert packing.bits == (1.6 if levels == 3 else np.log2(levels))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("levels", LEVELS)
def test_unpacked_at_load_gives_the_very_bits_that_decode_says(name, levels):
    model, feeds = sample(name)
    for feed in feeds:
        same_bits(model, feed, lambda weight: packed(weight, levels, 16), tolerance=2e-6)


@pytest.mark.parametrize("name", [name for name in BODIES if "Gather" in name or "table" in name])
@pytest.mark.parametrize(("levels", "planes"), [(2, 1), (2, 3), (3, 1), (16, 1), (32, 1), (64, 1)])
def test_picked_rows_have_the_very_bits_that_decode_says(name, levels, planes):
    model, feeds = sample(name)
    for feed in feeds:
        small, _ = same_bits(
            model,
            feed,
            lambda weight: packed(weight, levels, 16, planes == 1, planes, readers=["picked"]),
            tolerance=2e-6,
        )
        if "along" not in name and "over" not in name and "rank 3" not in name:
            assert not any(n.op == "Gather" and n.inputs[0].name == "w" for n in small.nodes())


@settings(max_examples=60)
@given(
    rows=st.integers(2, 20),
    columns=st.integers(2, 70),
    levels=st.sampled_from(LEVELS),
    block=st.sampled_from([16, 24, 32, 64]),
    zeros=st.booleans(),
    planes=st.sampled_from([1, 1, 2, 4]),
    half=st.booleans(),
    dtype=st.sampled_from(["float", "double", "float16"]),
    turned=st.booleans(),
    opset=st.sampled_from([11, 13, 17, 21]),
)
def test_whole_picked_and_turned(
    rows, columns, levels, block, zeros, planes, half, dtype, turned, opset
):
    """In one model, whose products play no part."""
    kind = {"float": "float32", "double": "float64", "float16": "float16"}[dtype]
    last = "Transpose(w)  picked = Gather(turned, j)" if turned else "Neg(w)  picked = Gather(w, j)"
    model = view(
        f"""(int64[2,1] i) => ({dtype} whole, {dtype} picked, {dtype} turned) {{
        j = Abs(i)  whole = Identity(w)  turned = {last} }}""",
        opset=opset,
        w=array(rows, columns, dtype=kind),
    )
    (weight,) = find_weights(model)
    form = packed(weight, levels, block, zeros, planes, half, ["picked"])
    expected = form.decode()
    form.emit(weight)
    indices = np.array([[0], [(columns if turned else rows) - 1]])
    whole, picked, other = run(from_proto(to_proto(model)), i=indices)
    exact = planes == 1
    close = np.testing.assert_array_equal if exact else approx
    close(whole, expected)
    close(picked, (expected.T if turned else expected)[indices])
    close(other, expected.T if turned else -expected)


def approx(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-3 if got.dtype == np.float16 else 2e-6, atol=2e-6)


# -------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("name", [n for n in BODIES if "MatMul" in n or "Gemm" in n])
@pytest.mark.parametrize(("reader", "levels"), [("nbits", 4), ("nbits", 16), ("blocked", 16)])
@pytest.mark.parametrize("zeros", [True, False])
def test_products_of_packed_weights_are_close(name, reader, levels, zeros):
    model, feeds = sample(name)
    if reader == "blocked":
        for entry in model.shell.opset_import:
            entry.version = 21 if not entry.domain else 1
        model.raise_ir_version(10)
    for feed in feeds:
        small, dense, _ = emitted(
            model,
            lambda weight: packed(weight, levels, 16, zeros, readers=[reader, "picked"]),
        )
        again = from_proto(to_proto(small))
        for got, want in zip(run(again, **feed), run(dense, **feed), strict=True):
            assert np.abs(got - want).max() <= 0.03 * max(np.abs(want).max(), 1)


WIDE = "(float[3,{k}] x) => (float y) {{ y = {op} }}"


@pytest.mark.parametrize("op", ["MatMul(x, w)", "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)"])
@pytest.mark.parametrize(("reader", "levels"), [("nbits", 4), ("nbits", 16), ("blocked", 16)])
@pytest.mark.parametrize("columns", [64, 96, 71])
@pytest.mark.parametrize("zeros", [True, False])
def test_wide_products_run_in_the_kernel(op, reader, levels, columns, zeros):
    weights = {"w": array(columns, 40)} | ({"b": array(40)} if "Gemm" in op else {})
    model = view(WIDE.format(k=columns, op=op), opset=21, ir_version=10, **weights)
    feed = {"x": array(3, columns)}
    small, dense, _ = emitted(
        model, lambda weight: packed(weight, levels, 32, zeros, readers=[reader])
    )
    small = from_proto(to_proto(small))
    (got,), (want,) = run(small, **feed), run(dense, **feed)
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    if reader == "blocked" and columns % 32:
        return  # unpacked at load
    ops = [op for op, _ in executed(small, feed)]
    assert "MatMulNBits" in ops
    assert "DequantizeLinear" not in ops


@pytest.mark.parametrize("alphas", [(1.0, 1.0, 1.0), (1.0, 0.5, 1.0)])
@pytest.mark.parametrize("zeros", [True, False])
def test_codes_scales_and_zeros_are_stored_once_for_all_products_of_a_weight(alphas, zeros):
    ops = " ".join(
        f"a{at + 1} = Gemm<alpha = {alpha}>(a{at}, w, b)" for at, alpha in enumerate(alphas)
    )
    text = f"(float[3,64] x) => (float y) {{ a0 = Relu(x) {ops} y = Relu(a{len(alphas)}) }}"
    weights = {"w": array(64, 64) / np.float32(8), "b": array(64)}
    model, feed = view(text, opset=21, ir_version=10, **weights), {"x": array(3, 64)}
    small, dense, _ = emitted(
        model, lambda weight: packed(weight, 16, 32, zeros, readers=["nbits"])
    )
    again = from_proto(to_proto(small))
    (got,), (want,) = run(again, **feed), run(dense, **feed)
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
    products = [node for node in again.nodes() if node.op == "com.microsoft.MatMulNBits"]
    slots = range(1, 4 if zeros else 3)
    kept = [len({node.inputs[slot] for node in products}) for slot in slots]
    assert len(products) == 3
    assert kept == [1, len(set(alphas)), 1][: len(slots)]
    assert all(again.tensor(node.inputs[1]) is not None for node in products)  # `verify` reads it


def test_a_table_that_is_multiplied_too_is_stored_once():
    model = view(
        """(int64[3] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        w=array(50, 64),
    )
    feed = {"i": np.array([1, 5, 49])}
    small, dense, _ = emitted(
        model, lambda weight: packed(weight, 16, 32, readers=["picked", "nbits"])
    )
    again = from_proto(to_proto(small))
    (got,), (want,) = run(again, **feed), run(dense, **feed)
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    tables = [t for _, t in again.stored(again.graph) if np.prod(t.dims) >= 50 * 32]
    assert len(tables) == 1


# ------------------------------------------------------------------------- what the runtime does


@pytest.mark.parametrize(
    "name", ["Conv", "ConvTranspose in groups", "LSTM", "MatMul", "Gemm on the left", "Gather"]
)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("planes", [1, 2])
def test_nothing_is_unpacked_at_run_time(name, levels, planes):
    model, (feed,) = sample(name)
    small, _, _ = emitted(model, lambda weight: packed(weight, levels, 16, planes == 1, planes))
    ran = {op for op, _ in executed(from_proto(to_proto(small)), feed)}
    assert not ran & {"Div", "Mod", "Cast", "Mul", "Sub", "Slice"}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(("levels", "planes"), [(2, 2), (16, 1), (32, 1)])
def test_what_was_packed_is_not_taken_for_a_weight_again(name, levels, planes):
    model, _ = sample(name)
    small, _, _ = emitted(
        model,
        lambda weight: packed(weight, levels, 16, planes == 1, planes, readers=["picked", "nbits"]),
    )
    found = find_weights(small)
    assert not found.weights
    assert any("already quantized" in item.reason for item in found.skipped)


def test_scales_that_are_no_normal_halves_stay_whole():
    assert fit_half(np.float32([0.0, 1e-3, 60000]))
    assert not fit_half(np.float32([1e-6]))
    assert not fit_half(np.float32([70000]))


def test_decode_is_the_dense_model():
    """Dense with decoded numbers is what everything above is compared with: it is independent."""
    model, (feed,) = sample("Conv")
    (weight,) = find_weights(model)
    form = packed(weight, 16, 32)
    matrix = form.codes[0].astype(np.float32) - np.repeat(form.zero, form.block, 1)[:, :54]
    matrix = matrix * np.repeat(form.scale[0], form.block, 1)[:, :54]
    np.testing.assert_array_equal(form.decode(), matrix.reshape(8, 6, 3, 3))
    Dense(form.decode()).emit(weight)
    run(model, **feed)
