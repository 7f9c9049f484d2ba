"""Where the bytes of weights are: in a file at an offset, in a caller's proto, or in scratch.

A large tensor in the graph is a shell: a TensorProto without data whose `external_data` names a
storage, an offset and a length. Copies of a model share one Storage. Nothing in it is ever
overwritten (the scratch file only grows), so a copy taken earlier stays valid.
"""

import contextlib
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_compress.ir.errors import InvalidError, LoadError, OutputError, UnsupportedError
from onnx_compress.ir.graph.elements import nbytes, type_name
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.wire import Blob, refer, reference

THRESHOLD = 4096  # bytes; smaller tensors stay in the proto
PIECE = 1 << 24  # bytes read at a time when a tensor is only passed on
MARKER = f"stored-{secrets.token_hex(8)}-"  # no location in a file can be mistaken for ours
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}

Bytes = npt.NDArray[np.uint8]


class Storage:
    """Bytes of tensors, by reference. Safe to read from several threads."""

    def __init__(self) -> None:
        self._kept: list[Any] = []  # open files, and caller's protos
        self._by_path: dict[str, str] = {}
        self._data: dict[str, None] = {}  # paths of external data
        self._scratch: str | None = None
        self._owner = 0  # the process that made it
        self._lock = threading.Lock()
        self._shared: WeakValueDictionary[Blob, Bytes] = WeakValueDictionary()

    def keep(self, thing: Any) -> str:
        """Location of something that bytes can be read from: a file, or what reads like one."""
        self._kept.append(thing)
        return f"{MARKER}{len(self._kept) - 1}"

    def open(self, path: Path) -> str:
        """Location of a file; it is held open, so it may be renamed or replaced meanwhile."""
        real = os.path.realpath(path)
        if real not in self._by_path:
            self._by_path[real] = self.keep(open(real, "rb", buffering=0))  # noqa: SIM115
        return self._by_path[real]

    def adopt(self, tensor: TensorProto, folder: Path | None) -> TensorProto | None:
        """A shell for a tensor as it came from outside; None if it is small and may stay.

        The data stay where they are: in the caller's proto, or in a file in `folder`.
        Raises LoadError for external data that are missing, cut short or outside the folder, and
        InvalidError for data that do not fit the shape.
        """
        needed = _needed(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            if tensor.external_data and tensor.external_data[0].value.startswith(MARKER):
                _fit(tensor, reference(tensor).length, needed)
                return None
            blob = self._external(tensor, folder, needed)
            _fit(tensor, blob.length, needed)
            return shell(tensor, blob)
        # the length is asked of the proto as a whole: reading raw_data would copy it
        size = tensor.ByteSize()
        if not tensor.HasField("raw_data"):
            if needed > 8 * size:  # no field takes less than a bit for an element of a byte
                _fit(tensor, size, needed)
            return None
        length = len(tensor.raw_data)
        _fit(tensor, length, needed)
        # said although it is the default: kept so
        if size < THRESHOLD or tensor.HasField("data_location"):
            return None
        return shell(tensor, Blob(self.keep(tensor), 0, length))

    def _external(self, tensor: TensorProto, folder: Path | None, needed: int) -> Blob:
        keys = {entry.key for entry in tensor.external_data}
        if keys - _EXTERNAL_KEYS or "location" not in keys:
            raise LoadError(
                f"external data with the keys {sorted(keys)}",
                "the ONNX format allows location, offset, length and checksum",
                tensor.name,
            )
        if folder is None:
            raise LoadError(
                "its data are in an external file, but a model in memory has no folder",
                "give the path of the model instead of the loaded model",
                tensor.name,
            )
        try:
            blob = reference(tensor)
        except ValueError:
            hint = "the file is damaged"
            raise LoadError("its offset or length is no number", hint, tensor.name) from None
        path = self._inside(folder, blob.location, tensor.name)
        rest = path.stat().st_size - blob.offset
        length = blob.length if "length" in keys else needed
        if blob.offset < 0 or length < 0 or length > rest:
            raise LoadError(
                f"{blob.location} ends before its data do",
                "the file is cut short or belongs to another model",
                tensor.name,
            )
        self._data[os.path.realpath(path)] = None
        return Blob(self.open(path), blob.offset, length)

    @staticmethod
    def _inside(folder: Path, location: str, name: str) -> Path:
        root = folder.resolve()
        hint = "external data must be plain files in the model's folder"
        if "\0" in location:
            raise LoadError("its data file has no valid name", hint, name)
        path = root / location
        if os.path.isabs(location) or not path.resolve().is_relative_to(root):
            raise LoadError(f"its data lie outside the model's folder: {location}", hint, name)
        try:
            mode = os.lstat(path)
        except (OSError, ValueError):
            raise LoadError(f"its data file {location} is missing", hint, name) from None
        if path.resolve() != path or not stat.S_ISREG(mode.st_mode) or mode.st_nlink > 1:
            raise LoadError(f"its data file {location} is a link or no plain file", hint, name)
        return path

    def data_files(self) -> list[Path]:
        """The files of external data, in the order in which they were met."""
        return [Path(path) for path in self._data]

    def append(self, data: Bytes) -> Blob:
        """Put bytes into the scratch file, which goes when the process does."""
        with self._lock, scratch():
            if self._scratch is None or self._owner != os.getpid():  # a forked child has its own
                file = tempfile.TemporaryFile(prefix="onnx-compress-", buffering=0)  # noqa: SIM115
                self._scratch, self._owner = self.keep(file), os.getpid()
            file = self.file(self._scratch)
            offset = file.seek(0, os.SEEK_END)
            view = data.data
            while view:
                view = view[file.write(view) :]
            return Blob(self._scratch, offset, data.nbytes)

    def file(self, location: str) -> Any:
        """What `keep` was given."""
        return self._kept[int(location.removeprefix(MARKER))]

    def read(self, blob: Blob) -> Bytes:
        """The bytes, as an array of its own."""
        kept = self.file(blob.location)
        if isinstance(kept, TensorProto):
            data: Bytes = np.frombuffer(kept.raw_data, np.uint8)  # copied whole, every time
            if blob.length == data.nbytes:
                return data  # not a view of it: views of what is shared hold on to that
            if blob.length <= THRESHOLD:
                return data[blob.offset : blob.offset + blob.length]
            # read in part: it will be read again
            kept = self._kept[int(blob.location.removeprefix(MARKER))] = self.append(data)
            del data
        if isinstance(kept, Blob):
            return self.read(Blob(kept.location, kept.offset + blob.offset, blob.length))
        out = np.empty(blob.length, np.uint8)
        view, done = out.data, 0
        while done < blob.length:
            count = self._read_at(kept, blob.offset + done, view[done:])
            if not count:
                raise LoadError("its data file was cut short while in use")
            done += count
        return out

    def shared(self, blob: Blob) -> Bytes:
        """The bytes, as one array for all that want them at the same time; not to be changed."""
        found = self._shared.get(blob)
        if found is None:
            found = self._shared[blob] = self.read(blob)
        return found

    def _read_at(self, kept: Any, offset: int, out: memoryview) -> int:
        """Read without moving the place in a file, which forked processes share; where it works."""
        if hasattr(os, "preadv") and hasattr(kept, "fileno"):
            return os.preadv(kept.fileno(), [out], offset)
        with self._lock:
            kept.seek(offset)
            return int(kept.readinto(out) or 0)

    def stream(self, blob: Blob) -> Iterator[Bytes]:
        """The bytes in bounded pieces."""
        for start in range(0, blob.length, PIECE):
            length = min(PIECE, blob.length - start)
            yield self.read(Blob(blob.location, blob.offset + start, length))


def _needed(tensor: TensorProto) -> int:
    """Bytes that its shape asks for."""
    try:
        return nbytes(tensor)
    except UnsupportedError as error:
        hint = "the file is damaged, or the installed onnx is too old for it"
        raise UnsupportedError(error.message, hint, tensor.name) from None


def _fit(tensor: TensorProto, length: int, needed: int) -> None:
    if length != needed:
        shape = f"{type_name(tensor.data_type)} {list(tensor.dims)}"
        raise InvalidError(
            f"{length} bytes of data where {shape} takes {needed}",
            "the file is damaged, or its exporter has a bug",
            tensor.name,
        )


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Around work with temporary files: OutputError where it fails."""
    try:
        yield
    except OSError as error:
        what = f"temporary files cannot be written: {error.strerror or error}"
        hint = "make room there, or set TMPDIR to another folder"
        raise OutputError(what, hint, os.environ.get("TMPDIR", "")) from None


def shell(tensor: TensorProto, blob: Blob | None) -> TensorProto:
    """A copy of a tensor without its data, referring to `blob` if given."""
    out = without(tensor, {"raw_data", "external_data", "data_location"})
    if tensor.HasField("segment"):
        raise UnsupportedError("tensors in segments", "no known exporter writes them", tensor.name)
    if blob is not None:
        refer(out, blob)
    return out
