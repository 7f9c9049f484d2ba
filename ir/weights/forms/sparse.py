"""Sparse: the numbers that are not zero, and where they are, in whichever way is smaller.

    bits   a bit for each place       Gather([0, values], CumSum(bits) bits)
    gaps   bytes from one to the next       ScatterElements(zeros, CumSum(gaps), values)

n places, k numbers of b bytes: n / 8 + k b bytes, or k (b + 1), with zeros among the numbers where
a gap is above 255. Operators that every runtime has from set 11 on, which ONNX Runtime folds when
it loads the model: small in the file, of full size and full speed in memory. Source of the gaps:
Deep Compression (1510.00149), with bytes for their five bits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, Tensor
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.digits import unpacked
from onnx_compress.ir.weights.weight import Weight, find_weights
from onnx_compress.kernels.radix import PACKINGS

MINIMUM_OPSET = 11  # of CumSum, and of ScatterElements
_INT32 = 6
_NODES = 900  # bytes that the nodes and small tensors take, names aside
_LONGEST_GAP = 255
_MOST = 1 << 31  # places that are counted in 32 bits
_BITS = PACKINGS[2]


@dataclass(frozen=True, eq=False)
class Sparse:
    """A tensor of any type and shape, stored without its zeros."""

    name: ClassVar[str] = "sparse"
    array: Array

    def decode(self) -> Array:
        """The array itself; where a zero had a sign, it has none."""
        return np.where(self.array != 0, self.array, self.array.dtype.type(0))

    def nbytes(self) -> int:
        """Bytes of the numbers and of their places."""
        return min(self._sizes)

    def saves(self) -> int:
        """Bytes that it takes less in a file than the array; with the nodes, may be negative."""
        if self.array.size >= _MOST or self.array.dtype.kind not in "fiuV":
            return -1
        return int(self.array.nbytes) - self.nbytes() - _NODES

    def fits(self, weight: Weight) -> bool:
        """Whether `emit` would do."""
        return weight.model.opset() >= MINIMUM_OPSET and not weight.value.exits

    @cached_property
    def _flat(self) -> Array:
        return self.array.reshape(-1)

    @cached_property
    def _places(self) -> Array:
        found = np.flatnonzero(self._flat)
        return found if len(found) else np.zeros(min(self.array.size, 1), np.int64)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """With bits, with gaps."""
        each = self.array.itemsize
        steps = np.diff(self._places, prepend=0)
        filled = int((np.maximum(steps - 1, 0) // _LONGEST_GAP).sum())
        bits = -(-self.array.size // 8) + (len(self._places) + 1) * each
        return bits, (len(self._places) + filled) * (each + 1)

    def emit(self, weight: Weight) -> None:
        """Let all that reads the weight read what is put together, under the weight's name.

        Raises PreconditionError where the operator set is too old, or the model gives it out.
        """
        model, old = weight.model, weight.value
        if old.exits:
            raise PreconditionError("the model gives it out", "leave it dense", weight.name)
        b = Builder(model, old.graph, weight.stem)
        out = self.put(b, model.tensor(old))
        model.replace_uses(old, out)
        remove_unused(model, [old])
        if not model.shell.training_info:
            model.take_name(out, old)

    def put(self, b: Builder, like: Tensor | None = None) -> Value:
        """Add the nodes; gives the array. `like`: whose documentation the numbers get."""
        if b.model.opset() < MINIMUM_OPSET:
            raise PreconditionError(
                f"operator set {b.model.opset()} has no CumSum", "leave it dense", b.stem
            )
        bits, gaps = self._sizes
        write = self._by_bits if bits <= gaps else self._by_gaps

        def stored(array: Array) -> Value:
            return b.model.add_constant(b.graph, array, f"{b.stem}.v", like)

        flat = write(b, stored)
        return b("Reshape", flat, b.constant(np.array(self.array.shape, np.int64), "shape"))

    def _by_bits(self, b: Builder, stored: Callable[[Array], Value]) -> Value:
        size = self.array.size
        kept = np.zeros(-(-size // 8) * 8, np.uint8)
        kept[self._places] = 1
        out = unpacked(b, _BITS, b.constant(_BITS.pack(kept), "bits"), -1)
        bits = b("Reshape", out, b.constant(np.array([-1], np.int64), "shape"))
        if len(kept) != size:
            ends = [b.constant(np.array([at], np.int64), "at") for at in (0, size)]
            bits = b("Slice", bits, *ends)
        places = b("Mul", b("CumSum", bits, b.constant(np.array(0, np.int64), "axis")), bits)
        zero = np.zeros(1, self.array.dtype)
        return b("Gather", stored(np.concatenate([zero, self._flat[self._places]])), places)

    def _by_gaps(self, b: Builder, stored: Callable[[Array], Value]) -> Value:
        steps = np.diff(self._places, prepend=0)
        filled = np.maximum(steps - 1, 0) // _LONGEST_GAP
        last = np.cumsum(filled + 1) - 1  # where each number stands behind its fillers
        count = int(last[-1]) + 1 if len(last) else 0
        gaps = np.full(count, _LONGEST_GAP, np.uint8)
        gaps[last] = steps - filled * _LONGEST_GAP
        values = np.zeros(count, self.array.dtype)
        values[last] = self._flat[self._places]
        wide = b("Cast", b.constant(gaps, "gaps"), to=_INT32)
        places = b("CumSum", wide, b.constant(np.array(0, np.int64), "axis"))
        zero = b.constant(np.zeros(1, self.array.dtype), "zero")
        zeros = b("Expand", zero, b.constant(np.array([self.array.size], np.int64), "size"))
        return b("ScatterElements", zeros, places, stored(values), axis=0)


def thin_out(model: Model, values: Iterable[Value]) -> None:
    """Store those of these weights that are there still without their zeros, as they were."""
    wanted = set(values)
    for weight in find_weights(model) if wanted else ():
        form = Sparse(weight.array()) if weight.value in wanted else None
        if form is not None and form.saves() > 0 and form.fits(weight):
            form.emit(weight)


def put_smaller(b: Builder, array: Array, suffix: str, like: Tensor | None = None) -> Value:
    """Store an array, without its zeros where that is smaller; gives it."""
    form = Sparse(array)
    if b.model.opset() >= MINIMUM_OPSET and form.saves() > 0:
        return form.put(b, like)
    return b.model.add_constant(b.graph, array, f"{b.stem}.{suffix}", like)
