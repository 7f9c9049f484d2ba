"""Models in files and in memory: load, save, to and from ModelProto.

A file is never built in memory: loading cuts the weights out before anything is parsed, saving
writes one bounded piece at a time. A result appears by rename, or not at all.
"""

import contextlib
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from onnx_compress.ir.errors import InvalidError, LoadError, OutputError, UnsupportedError
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import THRESHOLD, Storage
from onnx_compress.ir.graph.wire import Blob, Piece, WireError, cut, refer, reference, size

LARGEST = (1 << 31) - 1  # bytes that protobuf can hold in one message
_ALIGNMENT = 4096  # of external data, so that a runtime can map it
_MAPPED = 1 << 16  # bytes of a tensor that is worth mapping


def load(path: str | Path) -> Model:
    """Read a model. Weights stay in the file, which is held open.

    Raises LoadError (not a model, truncated, external data missing) and InvalidError.
    """
    path = Path(path)
    storage = Storage()
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise LoadError("the file is empty", "give an ONNX model", str(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                small = _skeleton_bytes(mapped, storage.open(path))
        proto = ModelProto.FromString(small)
    except (WireError, DecodeError) as error:
        hint = "the file is cut short, or in another format"
        raise LoadError(f"not an ONNX model ({error})", hint, str(path)) from None
    except OSError as error:
        raise LoadError(error.strerror or "cannot be read", "check the path", str(path)) from None
    if not proto.HasField("graph") or not proto.graph.output or not proto.opset_import:
        hint = "the file is cut short, or in another format"
        what = "not an ONNX model: no graph with outputs, or no operator set"
        raise LoadError(what, hint, str(path))
    try:
        return Model(proto, path.absolute().parent, storage)
    except UnicodeDecodeError:
        hint = "names and documentation are UTF-8 in ONNX; the file is damaged"
        raise LoadError("text in it is not UTF-8", hint, str(path)) from None


def _skeleton_bytes(mapped: mmap.mmap, location: str) -> bytes:
    """The file without its large tensors. Raises WireError, with no view of the mapping left."""
    data = memoryview(mapped)
    problem = ""
    try:
        return cut(data, THRESHOLD, location)
    except WireError as error:
        problem = str(error)  # its traceback holds views, which would keep the mapping open
    finally:
        data.release()
    raise WireError(problem)


def from_proto(proto: ModelProto, folder: str | Path | None = None) -> Model:
    """View of a loaded model, which must not be changed while the view is in use."""
    if not proto.graph.output:
        raise InvalidError("the graph has no outputs", "give a complete model")
    return Model(proto, Path(folder).absolute() if folder is not None else None)


def to_proto(model: Model) -> ModelProto:
    """The complete model with all weights in it. Raises UnsupportedError above 2 GB."""
    proto = ModelProto()
    proto.ParseFromString(to_bytes(model))
    return proto


def to_bytes(model: Model) -> bytes:
    """The complete model as the bytes of a file. Raises UnsupportedError above 2 GB."""
    parts = pieces(model.skeleton())
    if size(parts) > LARGEST:
        raise UnsupportedError("a model above 2 GB has no single message", "save it to a file")
    return b"".join(chunks(parts, model.storage))


def file_size(model: Model) -> int:
    """Bytes the model takes as a single file."""
    return size(pieces(model.skeleton()))


class Staged:
    """A written model that is not in its place yet. As a context manager it cleans up.

    with stage(model, "out.onnx") as staged:
        Session(staged.path)                    # try it where it is
        staged.commit()                         # then it appears, by rename
    """

    def __init__(self, model: Model, path: str | Path, external: bool | None = None) -> None:
        """Write the files into a hidden folder beside their place. Raises OutputError."""
        self.target = Path(path)
        proto = model.skeleton()
        parts = pieces(proto)
        if external is None:
            external = size(parts) > LARGEST
        self._files: dict[str, list[Piece]] = {self.target.name: parts}
        if external:
            name = f"{self.target.name}.data"
            data = _externalise(proto, name)
            written: list[Piece] = [proto.SerializeToString(deterministic=True)]
            self._files = {name: data, self.target.name: written}
        self.nbytes = sum(size(parts) for parts in self._files.values())
        self._folder = self.target.with_name(f".{self.target.name}.{secrets.token_hex(4)}.tmp")
        self.path = self._folder / self.target.name
        with _explained(self.target):
            self._folder.mkdir()
            try:
                for name, parts in self._files.items():
                    _write(self._folder / name, parts, model.storage)
            except BaseException:
                self.discard()
                raise

    def commit(self) -> None:
        """Move the files to their place. Raises OutputError."""
        with _explained(self.target):
            for name in self._files:
                os.replace(self._folder / name, self.target.with_name(name))
        self.discard()

    def discard(self) -> None:
        """Remove what is still in the hidden folder."""
        for name in self._files:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def save(model: Model, path: str | Path, external: bool | None = None) -> int:
    """Write a model; gives the bytes written.

    With `external` (default: only where a single file would pass 2 GB) the weights go to
    PATH.data. Everything is written and synchronised first, then renamed. Raises OutputError.
    """
    with Staged(model, path, external) as staged:
        staged.commit()
        return staged.nbytes


def check_place(path: str | Path) -> None:
    """Raise OutputError early where a file cannot be put there."""
    path = Path(path)
    hint = "check that the folder exists, is writable and has room"
    if path.is_dir():
        raise OutputError("cannot be written: it is a folder", hint, str(path))
    if not path.absolute().parent.is_dir():
        raise OutputError("cannot be written: no such folder", hint, str(path))
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError("cannot be written: the folder is read-only", hint, str(path))


def copy(source: str | Path, path: str | Path) -> None:
    """Copy a file beside its new place, then rename. Raises OutputError."""
    path = Path(path)
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _explained(path):
        try:
            shutil.copyfile(source, hidden)
            os.replace(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "check that the folder exists, is writable and has room"
        reason = error.strerror or str(error)
        raise OutputError(f"cannot be written: {reason}", hint, str(path)) from None


def _write(path: Path, parts: list[Piece], storage: Storage) -> None:
    with open(path, "xb") as file:
        for chunk in chunks(parts, storage):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _externalise(proto: ModelProto, location: str) -> list[Piece]:
    """Let all shells refer to one file; gives the pieces of that file."""
    data: list[Piece] = []
    at = 0
    for tensor in _shells(proto):
        blob = reference(tensor)
        padding = -at % _ALIGNMENT if blob.length >= _MAPPED else 0
        data += [bytes(padding), blob]
        at += padding
        del tensor.external_data[:]
        refer(tensor, Blob(location, at, blob.length))
        at += blob.length
    return data


def _shells(proto: ModelProto) -> list[TensorProto]:
    found: list[TensorProto] = []
    todo = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while todo:
        graph = todo.pop(0)
        found += [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
        nodes += graph.node
        while nodes:
            for attribute in nodes.pop(0).attribute:
                tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
                found += [t for t in tensors if t.data_location == TensorProto.EXTERNAL]
                todo += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return found
