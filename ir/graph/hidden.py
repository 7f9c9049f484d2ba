"""Hidden folders: files are written there first, beside their place, on the same disk.

Each is locked while it is in use, so that what a killed run left behind can be told and removed.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

try:
    _fcntl: ModuleType | None = __import__("fcntl")
except ImportError:  # not on Windows
    _fcntl = None


class Hidden:
    """A folder beside a file's place, locked while it is in use."""

    def __init__(self, target: Path) -> None:
        """Make one for a file that is to come. Raises OSError."""
        remove_leftovers(target)
        self._lock: int | None = None
        while True:
            self.path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
            self.path.mkdir()
            try:
                self._lock = lock(self.path)
            except (BlockingIOError, FileNotFoundError):
                continue  # taken for a leftover before it was locked
            except OSError:
                return  # not every file system has locks
            if self._lock is None or _is_open(self.path, self._lock):
                return
            unlock(self._lock)

    def remove(self) -> None:
        """Remove it with all that is still in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        unlock(self._lock)
        self._lock = None


def lock(folder: Path, wait: bool = False) -> int | None:
    """A held lock on a folder, None where there are none. Raises OSError if it is held already."""
    if _fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        raise
    return handle


def unlock(handle: int | None) -> None:
    """Let go of a lock."""
    if handle is not None:
        os.close(handle)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process of this library puts files into their places there meanwhile."""
    handle = None
    with contextlib.suppress(OSError):
        handle = lock(folder, wait=True)
    try:
        yield
    finally:
        unlock(handle)


def _is_open(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except OSError:
        return False


def remove_leftovers(target: Path) -> None:
    """Hidden folders of runs that were killed: nobody holds their lock."""
    for folder in target.parent.glob(f".{escaped(target.name)}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            handle = lock(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                unlock(handle)


def escaped(name: str) -> str:
    """A name as a pattern of itself."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def synchronise(folder: Path) -> None:
    """A rename is only there after a power cut if its folder is written, too."""
    if _fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)
