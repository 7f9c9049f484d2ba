"""argparse, with errors like all others: two lines, and what to do."""

import argparse
from typing import NoReturn

from onnx_compress.ir.errors import OptionError


class Parser(argparse.ArgumentParser):
    """Options are written out in full: what is short today may be ambiguous tomorrow."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises OptionError."""
        raise OptionError(message, f"see {self.prog} --help")
