"""Protobuf messages copied in part, with all that is in them."""

from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph.wire import BYTES, FIXED32, FIXED64, VARINT, encoded

M = TypeVar("M", bound=Message)


def without(proto: M, fields: set[str]) -> M:
    """A copy of a message without some fields; what is left out is never copied.

    Fields that the installed onnx does not know, of a newer format, are kept.
    """
    out: M = type(proto)()
    for field, value in proto.ListFields():
        if field.name in fields:
            continue
        if field.is_repeated:
            getattr(out, field.name).extend(value)
        elif field.message_type is not None:
            getattr(out, field.name).CopyFrom(value)
        else:
            setattr(out, field.name, value)
    unknown = UnknownFieldSet(proto)
    if len(unknown):
        out.MergeFromString(b"".join(_unknown(field) for field in unknown))
    return out


def _unknown(field: Any) -> bytes:
    number, kind = int(field.field_number), int(field.wire_type)
    data: Any = field.data
    key = encoded(number << 3 | kind)
    if kind == VARINT:
        return key + encoded(data)
    if kind == BYTES:
        return key + encoded(len(data)) + bytes(data)
    if kind not in (FIXED32, FIXED64):
        raise UnsupportedError("groups of fields", "onnx has none; the file is damaged")
    return key + int(data).to_bytes(4 if kind == FIXED32 else 8, "little")
