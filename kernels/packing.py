"""Codes of 2, 4 and 8 bits in bytes, the first code in the lowest bits.

    4 bits   byte = c0 | c1 << 4                          2 bits   c0 | c1 << 2 | c2 << 4 | c3 << 6

That is how ONNX stores int4, uint4, int2 and uint2, and MatMulNBits its blocks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

BITS = (2, 4, 8)


def unpack(packed: Array, bits: int, count: int | None = None, signed: bool = False) -> Array:
    """Codes of the last axis, one in a byte: [..., B] to [..., count].

    `packed`: 8-bit integers. `count`: codes in each row, all that fit by default. Gives int8 where
    `signed` (two's complement), else uint8. Raises ValueError for other numbers of bits, or more
    codes than there are.
    """
    _check(bits)
    raw = np.ascontiguousarray(packed).view(np.uint8)
    fit = raw.shape[-1] * 8 // bits
    count = fit if count is None else count
    if not 0 <= count <= fit:
        raise ValueError(f"{raw.shape[-1]} bytes hold {fit} codes of {bits} bits, not {count}")
    out = np.empty((*raw.shape[:-1], count), np.int8 if signed else np.uint8)
    if out.size:
        rows = out.view(np.uint8).reshape(-1, count)
        _unpack(raw.reshape(-1, raw.shape[-1]), bits, signed, rows)
    return out


def pack(codes: Array, bits: int) -> Bytes:
    """Bytes of the last axis: [..., count] to [..., ceil(count * bits / 8)], the rest zero bits.

    `codes`: integers, of which the lowest `bits` bits are kept. Raises ValueError for other numbers
    of bits.
    """
    _check(bits)
    each = 8 // bits
    count = codes.shape[-1]
    size = -(-count // each)
    raw = np.zeros((*codes.shape[:-1], size * each), np.uint8)
    raw[..., :count] = codes.astype(np.uint8) & (2**bits - 1)
    parts = raw.reshape(*codes.shape[:-1], size, each)
    out = np.zeros((*codes.shape[:-1], size), np.uint8)
    for at in range(each):
        out |= parts[..., at] << np.uint8(bits * at)
    return out


def _check(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"codes have 2, 4 or 8 bits here, not {bits}")


@kernel(writes=("out",))
def _unpack(packed: Any, bits: int, signed: bool, out: Any) -> None:
    each = 8 // bits
    mask = np.uint8(2**bits - 1)
    top = np.uint8(0)
    if signed:
        top = np.uint8(1 << (bits - 1))
    rows, count = out.shape
    for row in range(rows):
        for at in range(count // each):
            byte = packed[row, at]
            for part in range(each):
                code = (byte >> np.uint8(part * bits)) & mask
                out[row, at * each + part] = (code ^ top) - top
        for k in range(count - count % each, count):
            code = (packed[row, k // each] >> np.uint8(k % each * bits)) & mask
            out[row, k] = (code ^ top) - top
