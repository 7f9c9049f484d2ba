"""Codes of fewer than eight bits in bytes:  a word of `width` bytes holds `digits` codes.

    word = q_0 + q_1 L + q_2 L^2 + ...      codes 0 ... L - 1, the first in the lowest place

Bytes of a word rise in value as well. Two levels: eight codes a byte. Three: five (3^5 = 243).
With 4, 8 and 2 bits this is also the layout of MatMulNBits and of the packed types of ONNX.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Packing:
    """How codes of so many `levels` are packed."""

    levels: int
    digits: int
    width: int

    @property
    def bits(self) -> float:
        """That a code takes in the file."""
        return 8 * self.width / self.digits

    @property
    def places(self) -> list[int]:
        """What a code counts in its word."""
        return [self.levels**at for at in range(self.digits)]

    def pack(self, codes: Array) -> Array:
        """[..., n] -> [..., n / digits, width] of uint8. Raises ValueError if n does not divide."""
        words = codes.reshape(*codes.shape[:-1], -1, self.digits)
        if self.width == 1:
            out = np.zeros(words.shape[:-1], np.uint8)
            for at, place in enumerate(self.places):
                out += words[..., at].astype(np.uint8) * np.uint8(place)
            return out[..., None]
        whole = np.zeros(words.shape[:-1], np.int64)
        for at, place in enumerate(self.places):
            whole += words[..., at].astype(np.int64) * place
        return np.stack([(whole >> 8 * at & 255).astype(np.uint8) for at in range(self.width)], -1)

    def unpack(self, packed: Array) -> Array:
        """Inverse of `pack`, uint8."""
        whole = packed[..., 0].astype(np.int64)
        for at in range(1, self.width):
            whole += packed[..., at].astype(np.int64) << 8 * at
        words = [(whole // place % self.levels).astype(np.uint8) for place in self.places]
        out: Array = np.stack(words, -1)
        return out.reshape(*packed.shape[:-2], -1)


PACKINGS = {
    packing.levels: packing
    for packing in (
        Packing(2, 8, 1),
        Packing(3, 5, 1),
        Packing(4, 4, 1),
        Packing(8, 8, 3),
        Packing(16, 2, 1),
        Packing(32, 8, 5),
        Packing(64, 4, 3),
        Packing(256, 1, 1),
    )
}


def levels(bits: float) -> int:
    """How many numbers so many bits tell apart: 1.58 bits three."""
    return round(2**bits)
