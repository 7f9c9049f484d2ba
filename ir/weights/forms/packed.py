"""Packed: codes of six bits and fewer, in blocks of a row's columns that share a scale.

    W ~ sum_p scale_p (codes_p - zero)          p: planes, one but for bases of one bit

    bytes [R, B, words, width] --Cast, Mul [1, 256, ...], ReduceSum--> words --Div, Mod--> codes
          --Cast, Sub zero [R, B, 1, 1], Mul scale [R, B, 1, 1]--> numbers --Reshape, ...--> W

R rows (output features) of B blocks. Integer arithmetic that every runtime has from operator set
10 on, and that ONNX Runtime folds when it loads the model: small in the file, full speed, full size
in memory. Other readers of the same bytes: `picked` rows, `nbits` and `blocked` products.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, Tensor, element_of
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.base import FLOAT, Reader
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
    def length(self) -> int:
        """Codes that a block takes in the file: the last word is filled up."""
        return -(-self.block // self.packing.digits) * self.packing.digits

    @cached_property
    def packed(self) -> Array:
        """[rows, (planes,) blocks, words, width] of uint8."""
        planes, rows, columns = self.codes.shape
        blocks = self.scale.shape[2]
        filled = np.zeros((planes, rows, blocks * self.block), np.uint8)
        filled[:, :, :columns] = self.codes
        parts = filled.reshape(planes, rows, blocks, self.block)
        spare = [(0, 0)] * 3 + [(0, self.length - self.block)]
        out = np.moveaxis(self.packing.pack(np.pad(parts, spare)), 0, 1)
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

        for use in weight.uses:
            refused = PACKED_READERS[self.readers.get(use, "unpacked")].allows(use, self)
            if refused is not None:
                raise PreconditionError(refused.reason, "choose another reader", use.node.name)
        model = weight.model
        stored = StoredBytes(weight, self, model.tensor(weight.value))
        for use in weight.uses:
            operand = use.operand
            PACKED_READERS[self.readers.get(use, "unpacked")].read(use, stored)
            remove_unused(model, [operand])
        if weight.value.is_used:
            unpack_all(stored)


@dataclass
class StoredBytes:
    """The arrays of one packed weight on their way into the graph; each is put there once."""

    weight: Weight
    form: Packed
    like: Tensor | None
    _values: dict[str, Value] = field(default_factory=dict)

    def builder(self, use: Use | None = None) -> Builder:
        """Adds nodes beside the use, or beside the weight."""
        graph = use.node.graph if use is not None else self.weight.value.graph
        return Builder(self.weight.model, graph, self.stem, use.node if use else None)

    @property
    def stem(self) -> str:
        """What names of new values start with."""
        return self.weight.stem

    def codes(self) -> Value:
        """The bytes, [rows, (planes,) blocks, words, width]."""
        return self._once("q", lambda: self.form.packed)

    def scale(self) -> Value:
        """[rows, (planes,) blocks, 1, 1]."""
        scale = np.moveaxis(self.form.scale, 0, 1)[..., None, None]
        return self._once("s", lambda: scale[:, 0] if len(self.form.scale) == 1 else scale)

    def zero(self) -> Value:
        """[rows, (1,) blocks, 1, 1], or one number."""
        zero = np.asarray(self.form.zero)
        if not zero.ndim:
            return self._once("z", lambda: zero.astype(self.form.work[1]))
        inner = zero[:, None] if len(self.form.scale) > 1 else zero
        return self._once("z", lambda: inner[..., None, None])

    def zero_for_all(self) -> Value:
        """The same, packed like codes where that saves more than the nodes take."""
        form, packing = self.form, self.form.packing
        zero = np.asarray(form.zero)
        saved = zero.size * (1 - packing.bits / 8)
        if not zero.ndim or "z" in self._values or saved < _WORTH or zero.size % packing.digits:
            return self.zero()
        b = self.builder()
        words = unpacked(b, packing, b.constant(packing.pack(zero.reshape(-1)), "z"))
        shape = [len(zero), *([1] if len(form.scale) > 1 else []), zero.shape[1], 1, 1]
        return b("Reshape", words, b.constant(np.array(shape, np.int64), "shape"))

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


def unpacked(b: Builder, packing: Packing, packed: Value) -> Value:
    """Codes as integers: [..., width] of uint8 -> [..., digits]."""
    if packing.digits == 1:
        return packed
    kind = np.int64 if packing.width > 3 else np.int32
    out = b("Cast", packed, to=element_of(np.dtype(kind)))
    if packing.width > 1:
        places = np.array([256**at for at in range(packing.width)], kind)
        out = summed(b, b("Mul", out, b.constant(places, "w")), -1, keep=True)
    out = b("Div", out, b.constant(np.array(packing.places, kind), "d"))
    return b("Mod", out, b.constant(np.array(packing.levels, kind), "m"))


def decoded(b: Builder, form: Packed, codes: Value, scale: Value, zero: Value) -> Value:
    """[..., blocks, words, digits] of numbers, from parts with the same leading axes."""
    element, dtype = form.work
    out = unpacked(b, form.packing, codes)
    out = b("Cast", out, to=element)
    middle = zero if not np.ndim(form.zero) else b("Cast", zero, to=element)
    factor = scale if form.scale.dtype == dtype else b("Cast", scale, to=element)
    out = b("Mul", b("Sub", out, middle), factor)
    return summed(b, out, -4, keep=False) if len(form.scale) > 1 else out


def summed(b: Builder, value: Value, axis: int, keep: bool) -> Value:
    """ReduceSum, as the operator set of the model spells it."""
    if b.model.opset() < 13:
        return b("ReduceSum", value, axes=[axis], keepdims=int(keep))
    axes = b.constant(np.array([axis], np.int64), "a")
    return b("ReduceSum", value, axes, keepdims=int(keep))


def trimmed(b: Builder, form: Packed, out: Value, lead: list[int]) -> Value:
    """[..., blocks, words, digits] as [..., columns]; `lead`: as Reshape wants the rest of it.

    What only fills up words and blocks goes.
    """
    blocks, columns = form.scale.shape[2], form.order.columns

    def reshaped(value: Value, *shape: int) -> Value:
        return b("Reshape", value, b.constant(np.array([*lead, *shape], np.int64), "shape"))

    def first(value: Value, count: int) -> Value:
        ends = [b.constant(np.array([at], np.int64), "at") for at in (0, count, -1)]
        return b("Slice", value, *ends)

    if form.length != form.block:
        out = first(reshaped(out, blocks, form.length), form.block)
    if blocks * form.block != columns:
        return first(reshaped(out, blocks * form.block), columns)
    return reshaped(out, columns)


def unpack_all(stored: StoredBytes) -> None:
    """Let everything that still reads the weight read the decoded one."""
    b, form = stored.builder(), stored.form
    out = decoded(b, form, stored.codes(), stored.scale(), stored.zero_for_all())
    blocks = form.scale.shape[2]
    flat = form.length != form.block or blocks * form.block != form.order.columns
    if flat:
        out = trimmed(b, form, out, [form.order.rows])
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
