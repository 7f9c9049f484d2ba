"""Weights out of the protobuf bytes of a model, and back in, without parsing or building them.

    model.onnx  --cut-->     skeleton (small)  +  "bytes 4096..8192 of model.onnx"
    skeleton    --splice-->  the pieces of a complete file, written one after the other

`cut` replaces the `raw_data` of every large tensor, at any depth, by an `external_data` reference
to the place in the file where the bytes are. `splice` is its inverse. Only messages that hold a
large tensor are looked into, so the cost does not depend on the size of the weights.
Source: the protobuf encoding guide, and the field numbers of onnx.proto.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

# message kind -> {field number: message kind of the field}
MODEL, GRAPH, NODE, ATTRIBUTE, FUNCTION, TENSOR = range(6)
_INSIDE: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR},
    FUNCTION: {7: NODE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH},
    TENSOR: {},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_DEEPEST = 100  # as protobuf itself
LARGEST = (1 << 31) - 1  # bytes that protobuf can hold in one message
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class WireError(ValueError):
    """Bytes that are not a protobuf message."""


@dataclass(frozen=True)
class Blob:
    """Bytes kept elsewhere: `length` of them at `offset` of the storage called `location`."""

    location: str
    offset: int
    length: int


Piece = memoryview | bytes | Blob


def reference(tensor: TensorProto) -> Blob:
    """Where the bytes of an external tensor lie (length 0 if the file does not say)."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Blob(entries["location"], int(entries.get("offset", 0)), int(entries.get("length", 0)))


def refer(tensor: TensorProto, blob: Blob) -> None:
    """Make a tensor without data refer to bytes kept elsewhere."""
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", blob.location),
        ("offset", str(blob.offset)),
        ("length", str(blob.length)),
    ):
        tensor.external_data.add(key=key, value=value)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise WireError(f"unfinished number at byte {at}")


def encoded(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(field number, wire type, start of the key, start of the value, end of the value)."""
    while at < end:
        key_at = at
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == VARINT:
            start = at
            _, at = _varint(data, at, end)
        elif wire == BYTES:
            length, start = _varint(data, at, end)
            at = start + length
        elif wire in (FIXED32, FIXED64):
            start, at = at, at + (4 if wire == FIXED32 else 8)
        else:
            raise WireError(f"wire type {wire} at byte {key_at}")
        if at > end:
            raise WireError(f"field {key >> 3} runs past its message at byte {key_at}")
        yield key >> 3, wire, key_at, start, at


class _Rewriter:
    """Copies a message as pieces, with the tensors that `wanted` finds replaced."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def wanted(self, start: int, end: int) -> bool:
        raise NotImplementedError

    def tensor(self, start: int, end: int) -> list[Piece] | None:
        raise NotImplementedError

    def message(self, start: int, end: int, kind: int, depth: int = 0) -> list[Piece]:
        if depth > _DEEPEST:
            raise WireError(f"messages nested deeper than {_DEEPEST}")
        if kind == TENSOR:
            return self.tensor(start, end) or [self.data[start:end]]
        pieces: list[Piece] = []
        kept = start
        for number, wire, key_at, at, stop in _fields(self.data, start, end):
            inside = _INSIDE[kind].get(number)
            if inside is None or wire != BYTES or not self.wanted(at, stop):
                continue
            new = self.message(at, stop, inside, depth + 1)
            pieces.append(self.data[kept:key_at])
            pieces.append(encoded(number << 3 | BYTES) + encoded(size(new)))
            pieces += new
            kept = stop
        pieces.append(self.data[kept:end])
        return pieces


class _Cut(_Rewriter):
    def __init__(self, data: memoryview, threshold: int, location: str) -> None:
        super().__init__(data)
        self.threshold, self.location = threshold, location

    def wanted(self, start: int, end: int) -> bool:
        return end - start >= self.threshold

    def tensor(self, start: int, end: int) -> list[Piece] | None:
        fields = list(_fields(self.data, start, end))
        raw = [field for field in fields if field[0] == _RAW_DATA]
        external = any(field[0] == _DATA_LOCATION for field in fields)
        if len(raw) != 1 or external or raw[0][4] - raw[0][3] < self.threshold:
            return None
        _, _, key_at, at, stop = raw[0]
        shell = TensorProto()
        refer(shell, Blob(self.location, at, stop - at))
        return [self.data[start:key_at], self.data[stop:end], shell.SerializeToString()]


class _Splice(_Rewriter):
    def __init__(self, data: memoryview, marks: list[int]) -> None:
        super().__init__(data)
        self.marks = marks

    def wanted(self, start: int, end: int) -> bool:
        found = bisect_left(self.marks, start)
        return found < len(self.marks) and self.marks[found] < end

    def tensor(self, start: int, end: int) -> list[Piece] | None:
        blob = reference(TensorProto.FromString(bytes(self.data[start:end])))
        pieces: list[Piece] = [
            self.data[key_at:stop]
            for number, _, key_at, _, stop in _fields(self.data, start, end)
            if number not in (_EXTERNAL_DATA, _DATA_LOCATION)
        ]
        return [*pieces, encoded(_RAW_DATA << 3 | BYTES) + encoded(blob.length), blob]


def size(pieces: list[Piece]) -> int:
    """Bytes that the pieces take when written."""
    return sum(piece.length if isinstance(piece, Blob) else len(piece) for piece in pieces)


def cut(data: memoryview, threshold: int, location: str) -> bytes:
    """A ModelProto's bytes without the raw_data of `threshold` bytes or more.

    Each is replaced by a reference to (`location`, offset in `data`, length). Tensors that are
    external already, and data in other fields than raw_data, stay. Raises WireError.
    """
    pieces = _Cut(data, threshold, location).message(0, len(data), MODEL)
    return b"".join(bytes(piece) for piece in pieces if not isinstance(piece, Blob))


def splice(skeleton: bytes, marker: str) -> list[Piece]:
    """The pieces of the complete file: references to locations with `marker` are filled."""
    needle, marks, at = marker.encode(), [], -1
    while (at := skeleton.find(needle, at + 1)) >= 0:
        marks.append(at)
    return _Splice(memoryview(skeleton), marks).message(0, len(skeleton), MODEL)
