"""Setting: how a weight of fewer than eight bits is stored."""

from dataclasses import dataclass

from onnx_compress.kernels.radix import PACKINGS, levels


@dataclass(frozen=True)
class Setting:
    """Bits a weight, columns of a block (0: a row), whether blocks have zeros, bases of one bit.

    `rank`: of the correction beside it, 0: none.
    """

    bits: float
    block: int
    zeros: bool
    bases: int = 1
    rank: int = 0

    @property
    def levels(self) -> int:
        """How many numbers a code tells apart."""
        return levels(self.bits)

    def block_of(self, columns: int, exact: bool = False) -> int:
        """Columns of a block in rows of so many: all alike, or `exact`, as the kernels want them.

        Even blocks fill whole bytes.
        """
        if exact:
            return self.block
        count = max(-(-columns // self.block), 1) if self.block else 1
        digits = PACKINGS[self.levels].digits
        return -(-columns // (count * digits)) * digits
