"""Hidden folders: files are written there first, beside their place, on the same disk.

Each is locked while it is in use, so that what a killed run left behind can be told and removed.
"""

import contextlib
import os
import secrets
import shutil
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
        self.path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        new = self.path.with_suffix(".new")  # nobody takes it for a leftover before it is locked
        new.mkdir()
        self._lock: int | None = None
        with contextlib.suppress(OSError):  # not every file system has locks
            self._lock = _locked(new)
        new.rename(self.path)

    def remove(self) -> None:
        """Remove it with all that is still in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(folder: Path) -> int | None:
    """A held lock, None where there are none. Raises OSError if somebody else has it."""
    if _fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def remove_leftovers(target: Path) -> None:
    """Hidden folders of runs that were killed: nobody holds their lock."""
    for folder in target.parent.glob(f".{escaped(target.name)}.????????.tmp"):
        with contextlib.suppress(OSError):
            handle = _locked(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


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
