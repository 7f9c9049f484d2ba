"""Kernels against ONNX Runtime's own, single nodes: integers bit for bit."""

import numpy as np
import pytest

from onnx_compress.kernel_cases import single
from onnx_compress.kernels import convolution, integer, linear, nbits, packing

BYTES = [np.uint8, np.int8]


def drawn(rng, dtype, shape):
    info = np.iinfo(dtype)
    some = rng.integers(info.min, info.max + 1, shape)
    return np.where(rng.random(shape) < 0.3, rng.choice([info.min, info.max], shape), some).astype(
        dtype
    )


@pytest.mark.parametrize("of_a", BYTES)
@pytest.mark.parametrize("of_b", BYTES)
@pytest.mark.parametrize("rows", [1, 17])
def test_products_are_exact_or_saturate_as_we_say(of_a, of_b, rows):
    rng = np.random.default_rng(rows)
    a, b = drawn(rng, of_a, (rows, 513)), drawn(rng, of_b, (513, 77))
    zeros = np.array(3, of_a), drawn(rng, of_b, 77)
    constants = {"b": b, "az": zeros[0], "bz": zeros[1]}
    theirs = single(
        "MatMulInteger", {"a": a}, constants, 1, attributes={"order": ["a", "b", "az", "bz"]}
    )()
    exact = integer.matmul_integer(a, b, *zeros)
    clipped = integer.matmul_integer(a, b, *zeros, saturate=True)
    assert (theirs == exact).all() or (theirs == clipped).all()


@pytest.mark.parametrize("group", [1, 2, 8])
def test_quantized_convolutions(group):
    rng = np.random.default_rng(group)
    x = rng.integers(0, 256, (2, 8, 9, 7)).astype(np.uint8)
    w = rng.integers(-63, 64, (16, 8 // group, 3, 3)).astype(np.int8)
    w_scale = rng.uniform(0.001, 0.01, 16).astype(np.float32)
    x_scale, y_scale = np.array(0.02, np.float32), np.array(0.1, np.float32)
    x_zero, w_zero, y_zero = np.array(7, np.uint8), np.zeros(16, np.int8), np.array(120, np.uint8)
    bias = rng.integers(-500, 500, 16).astype(np.int32)
    order = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    values = [x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias]
    options = {"pads": (1, 0, 1, 2), "strides": (2, 1), "group": group}
    theirs = single(
        "QLinearConv",
        {"x": x},
        dict(zip(order[1:], values[1:], strict=True)),
        1,
        attributes={"order": order, **options},
    )()
    np.testing.assert_array_equal(convolution.qlinear_conv(*values, **options), theirs)


def test_codes_made_and_read():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((40, 33)) * 3).astype(np.float32)
    scale, zero = np.array(0.0371, np.float32), np.array(11, np.uint8)
    theirs = single("QuantizeLinear", {"x": x}, {"s": scale, "z": zero}, 1)()
    np.testing.assert_array_equal(linear.quantize_linear(x, scale, zero), theirs)
    scales, zeros = rng.random(33).astype(np.float32), drawn(rng, np.uint8, 33)
    back = single("DequantizeLinear", {"q": theirs}, {"s": scales, "z": zeros}, 1)()
    np.testing.assert_array_equal(linear.dequantize_linear(theirs, scales, zeros), back)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("rows", [1, 9])
def test_blocks_up_to_rounding(bits, size, level, rows):
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (48, 512 // size, size))
    scales = rng.uniform(0.01, 0.02, codes.shape[:2]).astype(np.float32)
    zeros = packing.pack(rng.integers(0, 2**bits, codes.shape[:2]), bits)
    packed = packing.pack(codes, bits)
    x = rng.standard_normal((rows, 512), np.float32)
    sizes = {"K": 512, "N": 48, "bits": bits, "block_size": size, "accuracy_level": level}
    constants = {"b": packed, "s": scales, "z": zeros.reshape(-1)}
    theirs = single("MatMulNBits", {"x": x}, constants, 1, "com.microsoft", sizes)()
    kept = nbits.block_codes(packed, scales, zeros, bits=bits, block_size=size, columns=512)
    near = [nbits.matmul_nbits(x, kept, accuracy_level=at) for at in {0, level}]
    spread = float(np.sqrt((theirs.astype(np.float64) ** 2).mean()))
    # where a processor has no int8 kernel for these bits, level 4 is computed in float32
    assert min(np.abs(ours - theirs).max() for ours in near) <= 2e-5 * spread
