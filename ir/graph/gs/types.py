"""Types of gs tensors: what a script saw, and what of a ValueInfo is still true afterwards."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message
from onnx import TypeProto, ValueInfoProto, helper
from onnx_graphsurgeon import Variable
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnx_compress.ir.graph.messages import without

_PLAIN = "tensor_type"


@dataclass(frozen=True)
class Type:
    """Element type (of a map or an optional, a proto), shape and kind."""

    element: Any = None
    shape: tuple[Any, ...] | None = None
    kind: str | None = _PLAIN

    def like(self, other: "Type") -> bool:
        """Equal; `Graph.copy` forgets the kind, so that of a plain tensor says nothing."""
        kinds = {self.kind, other.kind} - {_PLAIN}
        same = self.shape == other.shape and type(self.element) is type(other.element)
        return same and len(kinds) < 2 and bool(self.element == other.element)


def variable(name: str, info: ValueInfoProto | None) -> Any:
    """As gs imports a value; without a type where gs has no way to hold it."""
    if info is not None:
        try:
            return OnnxImporter.import_tensor(info)
        except (KeyError, TypeError, ValueError, AttributeError):  # an element type it cannot name
            pass
    return Variable(name)


def of(tensor: Any) -> Type:
    """The type of a gs tensor as it is now."""
    element = tensor.dtype
    if element is not None and not isinstance(element, int | Message):
        element = int(helper.np_dtype_to_tensor_dtype(np.dtype(element)))
    shape = None if tensor.shape is None else tuple(tensor.shape)
    return Type(element, shape, getattr(tensor, "type", _PLAIN))


def info_of(name: str, type: Type, old: ValueInfoProto | None = None) -> ValueInfoProto:
    """A ValueInfo of this type, with all else that an old one says."""
    out = without(old, {"type"}) if old is not None else ValueInfoProto()
    if out.name != name:
        out.name = name
    if type.element is None:
        return out
    out.type.CopyFrom(_proto(type))
    if old is not None and old.type.denotation:
        out.type.denotation = old.type.denotation
    return out


def _proto(type: Type) -> TypeProto:
    shape = type.shape
    if shape is not None:
        shape = tuple(int(dim) if isinstance(dim, np.integer) else dim for dim in shape)
    if type.kind == "optional_type":
        return helper.make_optional_type_proto(type.element)
    if type.kind == "sparse_tensor_type":
        return helper.make_sparse_tensor_type_proto(type.element, shape)
    plain = helper.make_tensor_type_proto(type.element, shape)
    if type.kind == "sequence_type":
        return helper.make_sequence_type_proto(plain)
    if type.kind != _PLAIN:
        raise TypeError(f"values of the kind {type.kind} cannot get another type")
    return plain
