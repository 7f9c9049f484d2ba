"""The forms: dense, half, affine."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms import codec, dequantize, dynamic, gathered, static
from onnx_compress.ir.weights.forms.base import Coded, Reader, Stored, read_all
from onnx_compress.ir.weights.forms.readers import PACKED_READERS
from onnx_compress.ir.weights.weight import Use, Weight

READERS: dict[str, Reader[Coded, Stored]] = {
    reader.name: reader
    for reader in (
        codec.READER,
        gathered.READER,
        dynamic.READER,
        dequantize.READER,
        static.READER,
    )
}

LARGEST_HALF = 65504.0
SMALL_HALF = 2.0**-12  # from here on, what is lost is below 2^-13 of the largest of a channel
_LOWEST = -126.0  # exponent of a scale that runtimes do not take for zero
_AROUND = 256  # bytes of a node more, and of what it is called


@dataclass(frozen=True, eq=False)
class Dense:
    """The plain numbers, in the type they had."""

    name: ClassVar[str] = "dense"
    array: Array

    def decode(self) -> Array:
        """The array itself."""
        return self.array

    def nbytes(self) -> int:
        """Bytes of the array."""
        return int(self.array.nbytes)

    def emit(self, weight: Weight) -> None:
        """Replace the numbers where they are."""
        weight.model.set_constant(weight.value, self.array)


@dataclass(frozen=True, eq=False)
class Affine(Coded):
    """int8 codes with scales:  W ~ codes * scale."""

    name: ClassVar[str] = "affine"

    def emit(self, weight: Weight) -> None:
        """Each use reads in the way that `readers` says; the rest is decoded once for all."""
        emit(self, weight)


@dataclass(frozen=True, eq=False)
class Half(Coded):
    """float16 storage:  W ~ Cast(codes) * scale. Computation stays in the type it was.

    Scales are powers of two, where channels are so small (or large) that float16 has few digits for
    them: BatchNormalization folded into dead channels leaves such. Most weights have none.
    """

    name: ClassVar[str] = "half"

    def emit(self, weight: Weight) -> None:
        """Gather picks from the float16 table; the rest is cast once for all."""
        emit(self, weight)

    @staticmethod
    def of(weight: Weight) -> "Half | No":
        """The nearest float16 numbers; `No` where they do not fit."""
        top, readers = weight.largest(), Half.readers_of(weight)
        if not np.isfinite(top).all():
            return No("holds NaN or infinity")
        small, large = (top > 0) & (top < SMALL_HALF), top > LARGEST_HALF
        scale = None
        if (small | large).any() and "gathered" not in readers.values():
            if 2 * weight.size + 4 * top.size + _AROUND >= weight.nbytes:
                return No("too small: its channels need scales in float16")
            powers = np.floor(np.log2(np.where(small | large, top, 1)))
            scale = np.exp2(np.maximum(powers, _LOWEST))
        elif large.any():
            return No("holds values above 65504")
        codes = np.empty(weight.shape, np.float16)
        along = 0 in weight.channel_axes
        for place, array in weight.pieces():
            part = scale[place] if scale is not None and along else scale
            codes[place] = array if part is None else array / part
        return Half(codes, scale, None, weight.element, str(np_dtype(weight.element)), readers)

    @staticmethod
    def readers_of(weight: Weight) -> dict[Use, str]:
        """Rows are picked as float16 where that is possible."""
        view = np.broadcast_to(np.zeros((), np.float16), weight.shape)
        coded = Coded(view, None, None, weight.element, "float32")
        return {
            use: "gathered" if gathered.allows(use, coded) is None else "codec"
            for use in weight.uses
        }


def emit(coded: Coded, weight: Weight) -> None:
    """Put a coded weight into the graph. Raises PreconditionError if a use does not allow it."""
    stored = Stored(weight, weight.model.tensor(weight.value), coded)
    read_all(coded, stored, READERS)
    if weight.value.is_used:
        codec.decode_all(stored)


def minimum_opset(readers: Iterable[str]) -> int:
    """Version of the default operator set that these readers need."""
    needed = {name: reader.minimum_opset for name, reader in READERS.items()}
    needed |= {name: reader.minimum_opset for name, reader in PACKED_READERS.items()}
    return max((needed[name] for name in readers), default=0)


def affine(weight: Weight, codes: Array, scale: Array, readers: dict[Use, str]) -> Affine:
    """Codes and scales as a form of this weight; scales in the type that is computed in."""
    dtype = np_dtype(weight.element)
    form = Affine(codes, scale, None, weight.element, str(dtype), readers)
    return Affine(codes, scale.astype(form.work[1]), None, weight.element, str(dtype), readers)
