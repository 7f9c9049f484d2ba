"""Writing models: all of a model or nothing, whatever happens meanwhile.

    hidden folder  --written, synchronised-->  data file, then model, into place by rename

A data file is called after its content, so the old model keeps its old data until the new model
takes its place. One rename is the moment at which the new model is there.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from onnx_compress.ir.errors import OutputError
from onnx_compress.ir.graph.export import pieces
from onnx_compress.ir.graph.external import externalise, relocate, write
from onnx_compress.ir.graph.hidden import Hidden, alone, escaped, synchronise
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.wire import LARGEST, size

_HINT = "check that the folder exists, is writable and has room"


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
            self._folder = Hidden(self.target)
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
            data = externalise(proto, "")
            unnamed = self._folder.path / "data"
            digest = write(unnamed, data, model.storage)
            self._data = unnamed.with_name(f"{self.target.name}.{digest[:16]}.data")
            unnamed.rename(self._data)
            relocate(proto, self._data.name)
            parts = [proto.SerializeToString(deterministic=True)]
        write(self.path, parts, model.storage)
        return size(parts) + (self._data.stat().st_size if self._data else 0)

    def commit(self) -> None:
        """Move the files to their place. Raises OutputError."""
        place = self.target.parent
        with _explained(self.target), alone(place):
            old = _own_data(self.target)
            if self._data is not None:
                os.replace(self._data, place / self._data.name)
                synchronise(place)
            try:
                os.replace(self.path, self.target)
            except OSError:
                if self._data is not None and self._data.name not in old:
                    (place / self._data.name).unlink(missing_ok=True)
                raise
            synchronise(place)
            with contextlib.suppress(OSError):  # the model is there; old data do not hurt it
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


@contextlib.contextmanager
def placed(path: str | Path) -> Iterator[Path]:
    """A hidden place for one file, which appears by rename when all went well.

    Raises OutputError.
    """
    path = Path(path)
    with _explained(path):
        folder = Hidden(path)
        try:
            hidden = folder.path / path.name
            yield hidden
            with open(hidden, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(hidden, path)
            synchronise(path.parent)
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


def _own_data(target: Path) -> set[str]:
    """Data files in a model's folder that are called after it as `Staged` does."""
    pattern = f"{escaped(target.name)}.{'[0-9a-f]' * 16}.data"
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
