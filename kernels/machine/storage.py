"""Compiled kernels on disk, so that the next process need not compile them.

    <cache>/onnx-compress/<digest of our sources>/<digest of kernel, types, processor>.bin

numba's own cache is not used: it knows the file of a kernel but not those of the parts it is built
from, so it can give out stale code; and it raises where no folder can be written. Here whatever
goes wrong means that the kernel is compiled again. Files of versions long unused are removed.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_KEEP = 60 * 24 * 3600  # seconds that the files of another version are kept unused


class Storage:
    """Takes the place of numba's cache in one dispatcher: the same two methods."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, signature: Any, context: Any) -> Any:
        """What was compiled for a signature, or None."""
        context.refresh()
        try:
            data = self._path(signature, context.codegen()).read_bytes()
            from numba.core.compiler import CompileResult

            return CompileResult._rebuild(context, *pickle.loads(data))
        except Exception:  # no file, no folder, another pickle: compile
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, if that can be done."""
        with contextlib.suppress(Exception):
            from numba.core.serialize import dumps

            path = self._path(signature, result.codegen)
            _make(path.parent)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                try:
                    file.write(dumps(result._reduce()))
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = repr((self._name, signature, codegen.magic_tuple(), sys.version_info[:3]))
        return _folder() / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".bin")


@functools.cache
def _folder() -> Path:
    """The folder for these very sources. Raises OSError where it belongs to somebody else."""
    import llvmlite
    import numba

    chosen = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    root = Path(chosen or "~/.cache").expanduser() / "onnx-compress"
    sources = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*.py")):
        sources.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    folder = root / sources.hexdigest()[:32]
    for part in (root, folder):  # what is unpickled must be our own
        if part.exists() and hasattr(os, "getuid") and part.stat().st_uid != os.getuid():
            raise PermissionError(part)
    return folder


def _make(folder: Path) -> None:
    """Make the folder; a new one is the moment to remove those of versions long unused."""
    if folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in folder.parent.iterdir():
        if time.time() - other.stat().st_mtime > _KEEP:
            shutil.rmtree(other, ignore_errors=True)
