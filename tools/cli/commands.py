"""The commands beside the main one, each loaded when it is asked for."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast


class Command(Protocol):
    """A module of a command."""

    def parser(self) -> argparse.ArgumentParser:
        """Its options."""

    def run(self, arguments: Sequence[str]) -> int:
        """Do it; gives the exit code."""


@dataclass(frozen=True)
class Entry:
    """`module`: under onnx_compress.cli."""

    module: str
    help: str

    def load(self) -> Command:
        """Import it."""
        return cast(Command, import_module(f"onnx_compress.cli.{self.module}"))


COMMANDS = {
    "inspect": Entry("inspect", "what is in a model, and what could be compressed"),
    "bench": Entry("bench", "two models against each other: speed, loading, memory"),
    "verify": Entry("verify", "does a compressed model compute what it claims to"),
    "profile": Entry("profile", "measure what is fast on this machine, as a target"),
    "passes": Entry("passes", "what passes there are, and their options"),
    "completion": Entry("completion", "completion of this command for a shell"),
}
