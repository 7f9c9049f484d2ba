"""Form: a way to keep a weight in the graph. Reader: how one operator reads a coded weight.

    Form    emit    the nodes            Reader   allows   why not, if not
            decode  the numbers (numpy)           read     rewires one use
            nbytes  what it takes in the file

Solvers choose the numbers, forms keep them: a form is made of arrays, and emitted once.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, Tensor
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.sparse import Sparse, put_smaller
from onnx_compress.ir.weights.weight import Use, Weight
from onnx_compress.kernels import affine

FLOAT = 1  # TensorProto.FLOAT
F = TypeVar("F", bound="Read")
S = TypeVar("S", bound="Placing")


class Read(Protocol):
    """A form that each use may read in another way."""

    default: ClassVar[str]  # reader of uses that name none

    @property
    def readers(self) -> Mapping[Use, str]:
        """Names of readers."""


class Form(Protocol):
    """A way to keep a weight."""

    name: ClassVar[str]

    def decode(self) -> Array:
        """The numbers that the graph computes with, in the stored shape and type."""

    def nbytes(self) -> int:
        """Bytes of the stored arrays."""

    def emit(self, weight: Weight) -> None:
        """Put the weight into the graph in this form. Every use must allow it."""


@dataclass(frozen=True, eq=False)
class Coded:
    """(codes - zero_point) * scale, any of the two left out; codes are int8 or float16.

    `scale` and `zero_point` have the rank of `codes`. `element` and `dtype` are those of the
    decoded numbers. `readers` names for each use how it reads the codes; the default is to
    decode once for all.
    """

    default: ClassVar[str] = "codec"
    codes: Array
    scale: Array | None
    zero_point: Array | None
    element: int
    dtype: str
    readers: Mapping[Use, str] = field(default_factory=dict)

    @property
    def work(self) -> tuple[int, str]:
        """The type that is computed in: float32 for narrower floats, where there are scales.

        ONNX Runtime computes so and rounds when it likes; written out, it rounds once, at the end.
        """
        narrow = np.dtype(self.dtype).itemsize < 4 and self.scale is not None
        return (FLOAT, "float32") if narrow else (self.element, self.dtype)

    def decode(self) -> Array:
        """(q - z) * s, one rounding an operation."""
        exact = affine.dequantize(self.codes, self.scale, self.zero_point, self.work[1])
        return exact.astype(self.dtype)

    def scales_along(self, use: Use) -> bool:
        """Whether the scales lie along the output features that a use sees, or there is one."""
        axes = use.path.stored_axes(use.layout.channel_axes, self.codes.shape)
        shape = self.scale.shape if self.scale is not None else ()
        return all(dim == 1 or axis in axes for axis, dim in enumerate(shape))

    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        parts = (self.scale, self.zero_point)
        codes = min(self.codes.nbytes, Sparse(self.codes).nbytes())
        return codes + sum(part.nbytes for part in parts if part is not None)


@dataclass
class Placing:
    """A weight on its way into the graph. `like`: the original, for its documentation."""

    weight: Weight
    like: Tensor | None
    _shared: dict[Hashable, Value] = field(default_factory=dict, init=False, repr=False)

    def shared(self, array: Array, suffix: str) -> Value:
        """A constant beside the weight: one for all uses that want the same numbers."""
        key = suffix, str(array.dtype), array.shape, array.tobytes()
        if key not in self._shared:
            self._shared[key] = self.builder().constant(array, suffix)
        return self._shared[key]

    def builder(self, use: Use | None = None) -> Builder:
        """Adds nodes beside the use, or beside the weight."""
        graph = use.node.graph if use is not None else self.weight.value.graph
        return Builder(self.weight.model, graph, self.stem, use.node if use else None)

    @property
    def stem(self) -> str:
        """What names of new values start with."""
        return self.weight.stem


@dataclass
class Stored(Placing):
    """The arrays of one coded weight; each is put into the graph once."""

    coded: Coded
    _codes: Value | None = None

    def codes(self) -> Value:
        """The codes in the stored layout, shared by all readers."""
        if self._codes is None:
            self._codes = put_smaller(self.builder(), self.coded.codes, "q", self.like)
        return self._codes

    @property
    def channel_scale(self) -> Array | None:
        """The scale as one vector if it varies along one axis, or as a scalar."""
        scale = self.coded.scale
        if scale is None:
            return None
        wide = [dim for dim in scale.shape if dim > 1]
        if len(wide) > 1:
            return None
        return scale.reshape(-1) if wide else scale.reshape(())


@dataclass(frozen=True)
class Reader(Generic[F, S]):
    """One row of a table of readers, of forms F that are put into the graph by S.

    `minimum_opset`: of the operators it writes.
    """

    name: str
    minimum_opset: int
    allows: Callable[[Use, F], No | None]
    read: Callable[[Use, S], None]


def read_all(form: F, stored: S, table: Mapping[str, Reader[F, S]]) -> None:
    """Let each use read in the way that the form says.

    Raises PreconditionError if a use does not allow it, before anything is changed.
    """
    readers = {use: table[form.readers.get(use, form.default)] for use in stored.weight.uses}
    for use, reader in readers.items():
        refused = reader.allows(use, form)
        if refused is not None:
            raise PreconditionError(refused.reason, "choose another reader", use.node.name)
    for use, reader in readers.items():
        operand = use.operand
        reader.read(use, stored)
        remove_unused(stored.weight.model, [operand])
