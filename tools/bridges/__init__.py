"""Into other toolchains: `onnx_ir`, `olive` and `torch`, each with an extra of its name.

`compress` takes the models of onnx-ir and torch.onnx as they are; here is the rest.
"""

import contextlib
from collections.abc import Iterator

from onnx_compress.ir.errors import PreconditionError


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that an extra brings. Raises PreconditionError where one is missing."""
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        hint = f'pip install "onnx-compress[{extra}]"'
        raise PreconditionError(f"{missing} is not installed", hint, extra) from error
