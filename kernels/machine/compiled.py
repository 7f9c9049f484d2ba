"""Kernels: loops that numba compiles when they are first called with arrays of some kind.

    @kernel(writes=("out",))
    def double(x, out): ...         double(x, out)    compiled for (float32[:], float32[:]) here

Compiling is lazy, so importing costs nothing and numba itself is loaded with the first call. What
was compiled is kept on disk (`storage`) if there is a place to write to.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from onnx_compress.kernels.machine.storage import Storage

_MANY = 1 << 17  # numbers from which on a kernel is worth the second that numba takes to start
_FEW = 1 << 12  # the same, where numba has started
_LARGE = 1 << 20  # numbers of many weights that are worth it together
_compiling = threading.RLock()
_started = threading.Event()

if hasattr(os, "register_at_fork"):  # no child begins in the middle of compiling
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )


class Kernel:
    """A function of arrays and numbers that gives nothing back, compiled for each kind of them.

    Runs without the interpreter's lock. Arrays must be C-contiguous; only those in `writes` are
    written to, all others may be read-only. Python integers are int64.
    """

    def __init__(self, function: Callable[..., None], writes: tuple[str, ...], variant: str = ""):
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self._function, self._variant = function, variant
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        self._written = tuple(name in writes for name in names)
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(self, *arguments: Any) -> None:
        """Run it, compiled for these kinds of arguments."""
        kinds = tuple(
            (a.dtype.char, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments
        )
        found = self._compiled.get(kinds)
        if found is None:
            with _compiling:
                found = self._compiled.get(kinds)
                if found is None:
                    found = self._compiled[kinds] = self._compile(arguments)
        found(*arguments)

    def _compile(self, arguments: tuple[Any, ...]) -> Any:
        import numba

        signature = tuple(
            numba.types.Array(numba.from_dtype(a.dtype), a.ndim, "C", readonly=not written)
            if isinstance(a, np.ndarray)
            else numba.typeof(a)
            for a, written in zip(arguments, self._written, strict=True)
        )
        dispatcher = numba.njit(nogil=True, error_model="numpy")(self._function)
        dispatcher._cache = Storage(f"{self._function.__module__}.{self.__name__}.{self._variant}")
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        _started.set()
        return dispatcher


def worth(numbers: int) -> bool:
    """Whether a kernel is faster than numpy over and over again for so many numbers."""
    return numbers >= (_FEW if _started.is_set() else _MANY)


def prepare(numbers: int = _LARGE) -> None:
    """Load what compiles, on another thread, which a process that ends waits for.

    Only where there will be work for it: `numbers` in all.
    """
    if numbers < _LARGE or _started.is_set():
        return
    threading.Thread(target=_load, name="onnx-compress-kernels").start()


def _load() -> None:
    with _compiling, suppress(Exception):  # whoever calls a kernel is told
        from numba.core.registry import cpu_target

        cpu_target.target_context.refresh()
        _started.set()


def kernel(writes: tuple[str, ...]) -> Callable[[Callable[..., None]], Kernel]:
    """Decorate a function of arrays as a Kernel that writes to `writes`."""
    return lambda function: Kernel(function, writes)
