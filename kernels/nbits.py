"""Weights of 2, 4 or 8 bits in blocks with a scale and a zero point each: MatMulNBits.

    w[n, k] = (q[n, k] - z[n, b]) * s[n, b],  b = k // block_size           y = x w^T

    level 0   float activations:  y = sum_k x w                  (float32, any order)
    level 4   int8 activations:   for each row of x and block:  t = max|x| / 127,  xq = rint(x / t)
              y = sum_b float32(sum_k xq (q - z)) * (t s)        (b in order, each step rounded)

Source: com.microsoft.MatMulNBits and its CompInt8 kernels (mlas/lib/sqnbitgemm*).
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels import packing
from onnx_compress.kernels.linear import dequantize_linear
from onnx_compress.kernels.machine import paths
from onnx_compress.kernels.machine.compiled import kernel

Array = npt.NDArray[Any]

_MODULES = {"portable": "loops", "avx2": "simd", "avx512vnni": "simd"}


@dataclass(frozen=True)
class BlockCodes:
    """Weights [rows, columns]: rows = output features N, columns = K.

    `packed`: uint8 [N, blocks, block_size * bits / 8], the first code in the lowest bits; codes
    beyond K count for nothing. `scales`: float32 [N, blocks]. `zero_points`: float32 [N, blocks],
    usually whole.
    """

    bits: int
    block_size: int
    columns: int
    packed: Array
    scales: Array
    zero_points: Array

    @property
    def rows(self) -> int:
        """Output features."""
        return int(self.packed.shape[0])

    @property
    def blocks(self) -> int:
        """In each row."""
        return int(self.packed.shape[1])


@dataclass(frozen=True)
class BlockMatrix:
    """`codes`, laid out for one path."""

    path: str
    codes: BlockCodes
    data: tuple[Array, ...]


def block_codes(
    packed: Array,
    scales: Array,
    zero_points: Array | None = None,
    *,
    bits: int,
    block_size: int,
    columns: int,
) -> BlockCodes:
    """The inputs B, scales and zero_points of MatMulNBits, with its attributes; columns is K.

    `zero_points`: integers packed like B, row by row, or floats, one for each block, or None: the
    middle code, 2^(bits - 1). Blocks are powers of two from 16 to 256. Raises ValueError where
    shapes do not fit.
    """
    if bits not in packing.BITS or block_size not in (16, 32, 64, 128, 256):
        raise ValueError(f"no blocks of {block_size} codes of {bits} bits")
    blocks = -(-columns // block_size)
    each = block_size * bits // 8
    rows = packed.shape[0]
    if packed.size != rows * blocks * each or scales.size != rows * blocks:
        raise ValueError(f"{packed.shape} codes and {scales.shape} scales for {columns} columns")
    if zero_points is None:
        zeros = np.full((rows, blocks), 2 ** (bits - 1), np.float32)
    elif zero_points.dtype.kind == "f":
        zeros = zero_points.astype(np.float32).reshape(rows, blocks)
    else:
        own = zero_points.reshape(rows, -(-blocks * bits // 8))
        zeros = packing.unpack(own, bits, blocks).astype(np.float32)
    return BlockCodes(
        bits,
        block_size,
        columns,
        np.ascontiguousarray(packed).view(np.uint8).reshape(rows, blocks, each),
        np.ascontiguousarray(scales, np.float32).reshape(rows, blocks),
        zeros,
    )


def prepare(codes: BlockCodes, *, path: str | None = None) -> BlockMatrix:
    """Lay out weights to be multiplied with often."""
    chosen = paths.select(path)
    return BlockMatrix(chosen, codes, loops(chosen).lay_out(codes, chosen))


def matmul_nbits(
    x: Array,
    weights: BlockCodes | BlockMatrix,
    *,
    accuracy_level: int = 0,
    bias: Array | None = None,
    threads: int = 1,
    path: str | None = None,
) -> Array:
    """float32 [..., N] of x [..., K], float32: MatMulNBits at level 0 or 4.

    `bias`: float32 [N]. Raises ValueError for other levels, and where shapes do not fit.
    """
    if accuracy_level not in (0, 4):
        raise ValueError(f"accuracy level {accuracy_level} is neither 0 nor 4")
    ready = weights if isinstance(weights, BlockMatrix) else prepare(weights, path=path)
    codes = ready.codes
    if x.shape[-1] != codes.columns:
        raise ValueError(f"x of shape {x.shape} for weights of {codes.columns} columns")
    rows = np.ascontiguousarray(x, np.float32).reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    out = np.empty((len(rows), codes.rows), np.float32)
    chosen = loops(ready.path)
    if out.size and accuracy_level == 4:
        chosen.product(*quantize_blocks(rows, codes.block_size), ready, out, threads)
    elif out.size:
        chosen.float_product(rows, ready, out, threads)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], codes.rows)


def quantize_blocks(x: Array, block_size: int) -> tuple[Array, Array]:
    """int8 [M, B * block_size] and scales float32 [M, B] of x, float32 [M, K], B = ceil(K / block).

    t = max|x| / 127 over each block, xq = rint(x * (127 / max)); a block of zeros has scale 0. The
    last block is filled up with zeros.
    """
    blocks = -(-x.shape[1] // block_size)
    codes = np.zeros((x.shape[0], blocks * block_size), np.int8)
    scales = np.zeros((x.shape[0], blocks), np.float32)
    if x.size:
        _quantize_blocks(np.ascontiguousarray(x, np.float32), block_size, codes, scales)
    return codes, scales


def decode(codes: BlockCodes, *, threads: int = 1) -> Array:
    """float32 [N, K]: (q - z) * s."""
    flat = packing.unpack(codes.packed.reshape(codes.rows, -1), codes.bits)
    if not flat.size:
        return np.zeros((codes.rows, codes.columns), np.float32)
    if (codes.zero_points == np.rint(codes.zero_points)).all():
        whole = dequantize_linear(
            flat,
            codes.scales,
            codes.zero_points,
            axis=1,
            block_size=codes.block_size,
            threads=threads,
        )
    else:
        parts = flat.reshape(codes.rows, codes.blocks, codes.block_size).astype(np.float32)
        whole = (parts - codes.zero_points[..., None]) * codes.scales[..., None]
    return np.ascontiguousarray(whole.reshape(codes.rows, -1)[:, : codes.columns])


def loops(path: str) -> ModuleType:
    """The module of a path: `lay_out`, `product`, `float_product`."""
    return import_module(f"onnx_compress.kernels.{_MODULES[path]}.nbits")


@kernel(writes=("codes", "scales"))
def _quantize_blocks(x: Any, size: int, codes: Any, scales: Any) -> None:
    top = np.float32(127)
    for i in range(x.shape[0]):
        for b in range(scales.shape[1]):
            stop = min((b + 1) * size, x.shape[1])
            largest = np.float32(0)
            for k in range(b * size, stop):
                largest = max(largest, abs(x[i, k]))
            scales[i, b] = largest / top
            if largest > 0:
                inverse = top / largest
                for k in range(b * size, stop):
                    codes[i, k] = np.int8(np.rint(x[i, k] * inverse))
