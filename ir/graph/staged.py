"""Writing models: all of a model or nothing, whatever happens meanwhile.

    hidden folder  --written, synchronised-->  data file, then model, into place by rename

A data file is called after its content, so the old model keeps its old data until the new model
takes its place. One rename is the moment at which the new model is there.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from onnx import ModelProto, TensorProto

from onnx_compress.ir.errors import OutputError
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.wire import LARGEST, Blob, Piece, refer, reference, size

_ALIGNMENT = 4096  # of external data, so that a runtime can map it
_MAPPED = 1 << 16  # bytes of a tensor that is worth mapping
_HINT = "check that the folder exists, is writable and has room"

try:
    _fcntl: ModuleType | None = __import__("fcntl")
except ImportError:  # not on Windows
    _fcntl = None


class Staged:
    """A written model that is not in its place yet. As a context manager it cleans up.

    with Staged(model, "out.onnx") as staged:
        Session(staged.path)                    # try it where it is
        staged.commit()                         # then it appears
    """

    def __init__(self, model: Model, path: str | Path, external: bool | None = None) -> None:
        """Write the files into a hidden folder beside their place. Raises OutputError.

        With `external` (default: only where a single file would pass 2 GB) the weights go to a
        file of their own, NAME.DIGEST.data.
        """
        self.target = Path(path)
        with _explained(self.target):
            _remove_leftovers(self.target)
            self._folder = _Hidden(self.target)
            self.path = self._folder.path / self.target.name
            try:
                self.nbytes = self._write(model, external)
            except BaseException:
                self.discard()
                raise

    def _write(self, model: Model, external: bool | None) -> int:
        proto = model.skeleton()
        parts = pieces(proto)
        self._data: Path | None = None
        if external or (external is None and size(parts) > LARGEST):
            data = _externalise(proto, "")
            unnamed = self._folder.path / "data"
            digest = _write(unnamed, data, model.storage)
            self._data = unnamed.with_name(f"{self.target.name}.{digest[:16]}.data")
            unnamed.rename(self._data)
            _relocate(proto, self._data.name)
            parts = [proto.SerializeToString(deterministic=True)]
        _write(self.path, parts, model.storage)
        return size(parts) + (self._data.stat().st_size if self._data else 0)

    def commit(self) -> None:
        """Move the files to their place. Raises OutputError."""
        place = self.target.parent
        with _explained(self.target):
            old = _own_data(self.target)
            if self._data is not None:
                os.replace(self._data, place / self._data.name)
                _synchronise(place)
            try:
                os.replace(self.path, self.target)
            except OSError:
                if self._data is not None and self._data.name not in old:
                    (place / self._data.name).unlink(missing_ok=True)
                raise
            _synchronise(place)
            for name in old - ({self._data.name} if self._data else set()):
                if not _mentioned(name, place):
                    (place / name).unlink(missing_ok=True)
        self.discard()

    def discard(self) -> None:
        """Remove what is still in the hidden folder."""
        self._folder.remove()

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def save(model: Model, path: str | Path, external: bool | None = None) -> int:
    """Write a model; gives the bytes written. See `Staged`. Raises OutputError."""
    with Staged(model, path, external) as staged:
        staged.commit()
        return staged.nbytes


def write_beside(model: Model, folder: Path) -> Path:
    """Write a model and its data into a folder that is soon thrown away: not synchronised."""
    proto = model.skeleton()
    path = folder / "model.onnx"
    data = _externalise(proto, "model.data")
    _write(folder / "model.data", data, model.storage, durable=False)
    _write(path, [proto.SerializeToString(deterministic=True)], model.storage, durable=False)
    return path


def copy(source: str | Path, path: str | Path) -> None:
    """Copy a file beside its new place, then rename. Raises OutputError."""
    path = Path(path)
    with _explained(path):
        _remove_leftovers(path)
        folder = _Hidden(path)
        try:
            hidden = folder.path / path.name
            shutil.copyfile(source, hidden)
            with open(hidden, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(hidden, path)
            _synchronise(path.parent)
        finally:
            folder.remove()


def check_place(path: str | Path) -> None:
    """Raise OutputError early where a file cannot be put there."""
    path = Path(path)
    if path.is_dir():
        raise OutputError("cannot be written: it is a folder", _HINT, str(path))
    if not path.absolute().parent.is_dir():
        raise OutputError("cannot be written: no such folder", _HINT, str(path))
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError("cannot be written: the folder is read-only", _HINT, str(path))


class _Hidden:
    """A folder beside a file's place, locked while it is in use."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        self.path.mkdir()
        self._lock = _locked(self.path)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(folder: Path) -> int | None:
    """A held lock, None where there are none, or BlockingIOError if somebody else has it."""
    if _fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _remove_leftovers(target: Path) -> None:
    """Hidden folders of runs that were killed: nobody holds their lock."""
    for folder in target.parent.glob(f".{_escaped(target.name)}.????????.tmp"):
        with contextlib.suppress(OSError):
            handle = _locked(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _own_data(target: Path) -> set[str]:
    """Data files in a model's folder that are called after it as `Staged` does."""
    pattern = f"{_escaped(target.name)}.{'[0-9a-f]' * 16}.data"
    return {path.name for path in target.parent.glob(pattern)}


def _mentioned(name: str, folder: Path) -> bool:
    """Whether another model in the folder may refer to a data file."""
    for path in folder.glob("*.onnx"):
        with open(path, "rb") as file:
            rest = b""
            while chunk := file.read(1 << 22):
                if name.encode() in rest + chunk:
                    return True
                rest = chunk[-len(name) :]
    return False


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot be written: {reason}", _HINT, str(path)) from None


def _write(path: Path, parts: list[Piece], storage: Storage, durable: bool = True) -> str:
    """Write pieces; gives their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        for chunk in chunks(parts, storage):
            file.write(chunk)
            if durable:
                digest.update(chunk)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _synchronise(folder: Path) -> None:
    """A rename is only there after a power cut if its folder is written, too."""
    if _fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


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


def _relocate(proto: ModelProto, location: str) -> None:
    for tensor in _shells(proto):
        tensor.external_data[0].value = location


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
