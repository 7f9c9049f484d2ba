"""Attributes of gs nodes: as gs gives them, but for the kinds that it drops or cannot read.

Those are handed over as the protos they are, which gs leaves alone. Graphs are not among them: see
`gs_import` and `gs_export`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import AttributeProto, SparseTensorProto, TensorProto, TypeProto, helper
from onnx_graphsurgeon import Constant, Node
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.util import misc

from onnx_compress.ir.graph.gs.stored import stored, whole, written
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import Storage

_LISTS = (AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _copy(proto: Any) -> Any:
    out = type(proto)()
    out.CopyFrom(proto)
    return out


def _number(name: str, number: float) -> float | np.float32:
    """As np.float32 in Constant nodes: out of a float, `Graph.fold_constants` makes a DOUBLE."""
    return np.float32(number) if name in ("value_float", "value_floats") else number


def _constant(tensor: TensorProto, storage: Storage) -> Constant:
    return Constant(tensor.name, stored(tensor, storage))


READ: dict[int, Callable[[AttributeProto, Storage], Any]] = {
    AttributeProto.FLOAT: lambda a, _: _number(a.name, a.f),
    AttributeProto.INT: lambda a, _: a.i,
    AttributeProto.STRING: lambda a, _: _text(a.s),
    AttributeProto.FLOATS: lambda a, _: [_number(a.name, entry) for entry in a.floats],
    AttributeProto.INTS: lambda a, _: list(a.ints),
    AttributeProto.STRINGS: lambda a, _: [_text(entry) for entry in a.strings],
    AttributeProto.TENSOR: lambda a, storage: _constant(a.t, storage),
    AttributeProto.GRAPHS: lambda a, _: [],  # those that are not empty are never read here
    AttributeProto.TENSORS: lambda a, storage: [whole(t, storage) for t in a.tensors],
    AttributeProto.TYPE_PROTO: lambda a, _: _copy(a.tp),
    AttributeProto.TYPE_PROTOS: lambda a, _: [_copy(entry) for entry in a.type_protos],
    AttributeProto.SPARSE_TENSOR: lambda a, _: _copy(a.sparse_tensor),
    AttributeProto.SPARSE_TENSORS: lambda a, _: [_copy(entry) for entry in a.sparse_tensors],
}
_OPAQUE = (AttributeProto, SparseTensorProto, TensorProto, TypeProto)


def read(attribute: AttributeProto, storage: Storage) -> Any:
    """The value that a script sees."""
    if attribute.ref_attr_name:
        try:
            kind = misc.convert_from_onnx_attr_type(attribute.type)
        except KeyError:
            return _copy(attribute)
        return Node.AttributeRef(attribute.ref_attr_name, kind)
    reader = READ.get(attribute.type)
    return reader(attribute, storage) if reader else _copy(attribute)  # of a newer or older format


def write(
    key: str, value: Any, original: AttributeProto | None, storage: Storage
) -> AttributeProto:
    """The attribute for a value; `original` itself if it is the value that was read from it."""
    if isinstance(value, Constant):
        return _tensor(key, value, original, storage)
    if original is not None and _same(value, read(original, storage)):
        return original
    if isinstance(value, AttributeProto):
        other = AttributeProto()
        other.CopyFrom(value)
        other.name = key
        return other
    out: AttributeProto
    if isinstance(value, list) and not value:
        kind = original.type if original is not None and original.type in _LISTS else None
        out = helper.make_attribute(key, value, attr_type=kind)  # raises if nobody says of what
    else:
        (out,) = OnnxExporter.export_attributes({key: _encoded(value)})
    if original is not None and original.HasField("doc_string"):
        out.doc_string = original.doc_string
    return out


def _tensor(
    key: str, value: Any, original: AttributeProto | None, storage: Storage
) -> AttributeProto:
    before = original.t if original is not None and original.HasField("t") else None
    out = AttributeProto(name=key, type=AttributeProto.TENSOR)
    if original is not None and original.type == AttributeProto.TENSOR:
        out = without(original, {"t", "ref_attr_name"})
    tensor = written(value, before, storage)
    if isinstance(tensor, SparseTensorProto):
        out.type = AttributeProto.SPARSE_TENSOR
        out.sparse_tensor.CopyFrom(tensor)
        return out
    out.t.CopyFrom(tensor)
    if out.t.name != value.name:
        out.t.name = value.name
    return out


def _encoded(value: Any) -> Any:
    """Strings as bytes: they may hold what is not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [_encoded(entry) for entry in value]
    return value


def _same(one: Any, other: Any) -> bool:
    """Equal, and no zero of another sign; all NaN being one."""
    if type(one) is not type(other):
        return False
    items = one if isinstance(one, list) else [one]
    if any(isinstance(item, _OPAQUE) for item in items):
        return bool(one == other)
    return repr(one) == repr(other)
