"""Packed: codes of six bits and fewer, in blocks of a row's columns that share a scale.

    W ~ sum_p scale_p (codes_p - zero)          p: planes, one but for bases of one bit

    bytes [R, width, words] --unpacked--> codes [R, digits, words] --Reshape--> [R, B, block]
          --Cast, Sub zero [R, B, 1], Mul scale [R, B, 1]--> numbers --Reshape, ...--> W

R rows (output features) of B blocks; the arithmetic is that of `digits`. Every runtime has it from
operator set 10 on, and ONNX Runtime folds it when it loads the model: small in the file, full
speed, full size in memory. Other readers: `picked` rows, `nbits` and `blocked` products.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.base import FLOAT, Placing, Reader, read_all
from onnx_compress.ir.weights.forms.digits import summed, unpacked
from onnx_compress.ir.weights.order import Order
from onnx_compress.ir.weights.weight import Use, Weight
from onnx_compress.kernels.radix import PACKINGS, Packing

_WORTH = 500  # bytes that packing zeros must save, for the nodes that unpack them
_SMALLEST_HALF, _LARGEST_HALF = 2.0**-14, 65504.0  # of normal numbers


@dataclass(frozen=True, eq=False)
class Packed:
    """Codes [planes, rows, columns] below `levels`, uint8, of the matrix that `order` makes.

    `scale`: [planes, rows, blocks], float32 or float16 (float64 for doubles). `zero`: one number,
    or [rows, blocks] of uint8. `block`: columns that share a scale, the last block may have fewer.
    """

    name: ClassVar[str] = "packed"
    default: ClassVar[str] = "unpacked"  # reader of uses that name none
    codes: Array
    scale: Array
    zero: Array
    levels: int
    block: int
    order: Order
    element: int
    dtype: str
    readers: Mapping[Use, str] = field(default_factory=dict)

    @property
    def packing(self) -> Packing:
        """How codes lie in bytes."""
        return PACKINGS[self.levels]

    @property
    def work(self) -> tuple[int, str]:
        """The type that is computed in."""
        return (self.element, self.dtype) if self.dtype == "float64" else (FLOAT, "float32")

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return int(self.scale.shape[2])

    @property
    def length(self) -> int:
        """Codes that a row takes in the file: the last block and the last word are filled up."""
        return -(-self.blocks * self.block // self.packing.digits) * self.packing.digits

    @property
    def computed(self) -> int:
        """Numbers of a row that are decoded: surplus ones are cut off before blocks, or at last."""
        return self.length if self.blocks == 1 else self.blocks * self.block

    @property
    def axis(self) -> int:
        """Where the bytes of a word lie, and its digits: side by side if a kernel reads them, too.

        Else apart, the first digit of all words before the second: those are unpacked faster.
        """
        return -1 if "nbits" in self.readers.values() else -2

    @cached_property
    def packed(self) -> Array:
        """[rows, (planes,) width, words] of uint8; where `axis` is -1, words before width."""
        planes, rows, columns = self.codes.shape
        codes = np.zeros((rows, planes, self.length), np.uint8)
        codes[:, :, :columns] = self.codes.swapaxes(0, 1)
        if self.axis == -2:
            apart = codes.reshape(rows, planes, self.packing.digits, -1)
            codes = apart.swapaxes(2, 3).reshape(rows, planes, -1)
        out = self.packing.pack(codes)
        if self.axis == -2:
            out = out.swapaxes(2, 3)
        return np.ascontiguousarray(out[:, 0] if planes == 1 else out)

    def decode(self) -> Array:
        """The numbers that the graph computes with: each operation rounds once."""
        kind = self.work[1]
        zero = np.asarray(self.zero).astype(kind)
        found = np.zeros(self.codes.shape[1:], kind)
        for codes, scale in zip(self.codes, self.scale, strict=True):
            wide, middle = (
                self._spread(part) if part.ndim == 2 else part for part in (scale, zero)
            )
            found += (codes.astype(kind) - middle) * wide.astype(kind)
        return self.order.restore(found).astype(self.dtype)

    def _spread(self, part: Array) -> Array:
        return np.repeat(part, self.block, axis=1)[:, : self.order.columns]

    def nbytes(self) -> int:
        """Bytes of packed codes, scales and zero points."""
        return self.packed.nbytes + self.scale.nbytes + (self.zero.nbytes if self.zero.ndim else 0)

    def emit(self, weight: Weight) -> None:
        """Each use reads in the way that `readers` says; the rest is decoded once for all.

        Raises PreconditionError if a use does not allow it.
        """
        from onnx_compress.ir.weights.forms.readers import PACKED_READERS

        stored = StoredBytes(weight, weight.model.tensor(weight.value), self)
        read_all(self, stored, PACKED_READERS)
        if weight.value.is_used:
            unpack_all(stored)


@dataclass
class StoredBytes(Placing):
    """The arrays of one packed weight; each is put into the graph once."""

    form: Packed
    _values: dict[str, Value] = field(default_factory=dict)

    def codes(self) -> Value:
        """The bytes, as they lie in `Packed.packed`."""
        return self._once("q", lambda: self.form.packed)

    def scale(self) -> Value:
        """[rows, (planes,) blocks, 1]."""
        scale = self.form.scale.swapaxes(0, 1)[..., None]
        return self._once("s", lambda: scale[:, 0] if len(self.form.scale) == 1 else scale)

    def zero(self) -> Value:
        """[rows, (1,) blocks, 1], or one number."""
        zero = np.asarray(self.form.zero)
        if not zero.ndim:
            return self._once("z", lambda: zero.astype(self.form.work[1]))
        return self._once("z", lambda: zero.reshape(self._shape_of_zero()))

    def zero_for_all(self) -> Value:
        """The same, packed like codes where that saves more than the nodes take."""
        packing = self.form.packing
        zero = np.asarray(self.form.zero)
        saved = zero.size * (1 - packing.bits / 8)
        if not zero.ndim or "z" in self._values or saved < _WORTH or zero.size % packing.digits:
            return self.zero()
        b = self.builder()
        words = unpacked(b, packing, b.constant(packing.pack(zero.reshape(-1)), "z"), -1)
        return _reshaped(b, words, self._shape_of_zero())

    def _shape_of_zero(self) -> list[int]:
        planes = [1] if len(self.form.scale) > 1 else []
        return [self.form.order.rows, *planes, self.form.blocks, 1]

    def _once(self, suffix: str, make: Callable[[], Array]) -> Value:
        if suffix not in self._values:
            b = self.builder()
            like = self.like if suffix == "q" else None
            name = f"{b.stem}.{suffix}"
            self._values[suffix] = b.model.add_constant(b.graph, make(), name, like)
        return self._values[suffix]


def fit_half(scale: Array) -> bool:
    """Whether scales keep their digits as float16."""
    size = np.abs(scale[scale != 0])
    return bool((size >= _SMALLEST_HALF).all() and (size <= _LARGEST_HALF).all())


def decoded(
    b: Builder, form: Packed, codes: Value, scale: Value, zero: Value, lead: list[int]
) -> Value:
    """[..., blocks, block] of numbers; where a row is one block, in the shape that codes have.

    `codes`: floats, as they were unpacked. `lead`: the axes before, as Reshape wants them.
    """
    element, dtype = form.work
    if len(form.scale) > 1:
        lead = [*lead, len(form.scale)]
    if form.blocks > 1:
        codes = _first(b, codes, form.length, form.blocks * form.block, lead)
        codes = _reshaped(b, codes, [*lead, form.blocks, form.block])
    middle = b("Cast", zero, to=element) if np.ndim(form.zero) else zero
    factor = scale if form.scale.dtype == dtype else b("Cast", scale, to=element)
    out = b("Mul", b("Sub", codes, middle), factor)
    return summed(b, out, -3, keep=False) if len(form.scale) > 1 else out


def trimmed(b: Builder, form: Packed, out: Value, lead: list[int]) -> Value:
    """What `decoded` gives as [..., columns]: what only fills up words and blocks goes."""
    if form.computed != form.order.columns:
        return _first(b, out, form.computed, form.order.columns, lead)
    return _reshaped(b, out, [*lead, form.order.columns])


def _first(b: Builder, value: Value, count: int, wanted: int, lead: list[int]) -> Value:
    """The first of `count` numbers for each of what `lead` counts."""
    if count == wanted:
        return value
    ends = [b.constant(np.array([at], np.int64), "at") for at in (0, wanted, -1)]
    return b("Slice", _reshaped(b, value, [*lead, count]), *ends)


def _reshaped(b: Builder, value: Value, shape: list[int]) -> Value:
    return b("Reshape", value, b.constant(np.array(shape, np.int64), "shape"))


def unpack_all(stored: StoredBytes) -> None:
    """Let everything that still reads the weight read the decoded one."""
    b, form = stored.builder(), stored.form
    codes = unpacked(b, form.packing, stored.codes(), form.axis)
    codes = b("Cast", codes, to=form.work[0])
    lead = [form.order.rows]
    out = decoded(b, form, codes, stored.scale(), stored.zero_for_all(), lead)
    flat = form.computed != form.order.columns
    if flat:
        out = trimmed(b, form, out, lead)
    out = form.order.emit(b, out, flat)
    if form.work[0] != form.element:
        out = b("Cast", out, to=form.element)
    b.model.replace_uses(stored.weight.value, out)
    remove_unused(b.model, [stored.weight.value])


def allows(use: Use, form: Packed) -> No | None:
    """Anything."""
    return None


def read(use: Use, stored: StoredBytes) -> None:
    """Nothing to do for one use: see `unpack_all`."""


READER = Reader("unpacked", 10, allows, read)
