"""Trial: one pass, run once on one model, and what can be seen of it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from onnx import ModelProto

from onnx_compress.ir.graph import clone, files, from_proto
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Session
from onnx_compress.passes import Context, Pass, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.target import Target
from onnx_compress.testing.feeds import Feed, feed_of

TARGET = "avx512-vnni"  # that passes choose by, so that all machines test the same
PassLike = Pass | Callable[[ModelProto], ModelProto]


@dataclass
class Trial:
    """What a pass made of a model.

    `before` and `after`: bytes of the argument, before and after the run. `report` is None for
    functions, which report nothing.
    """

    pass_: PassLike
    model: ModelProto
    result: ModelProto
    before: bytes
    after: bytes
    report: Report | None
    original: Model = field(repr=False)
    changed: Model = field(repr=False)
    sessions: dict[tuple[str, bool], Session] = field(default_factory=dict, repr=False)

    @cached_property
    def same(self) -> bool:
        """Whether the result is the model given, byte by byte: there is nothing to compare then."""
        return bool(self.result.SerializeToString(deterministic=True) == self.before)

    def session(self, which: str, optimize: bool) -> Session:
        """The "original" or the "changed" model in the runtime, loaded once for all checks."""
        key = which, optimize
        if key not in self.sessions:
            self.sessions[key] = Session(getattr(self, which), optimize=optimize)
        return self.sessions[key]

    @property
    def exact(self) -> bool:
        """Whether the pass says that it changes nothing but rounding; functions are to be exact."""
        return self.pass_.exact if isinstance(self.pass_, Pass) else True


def tried(
    pass_: PassLike, model: ModelProto, feeds: Sequence[Feed] = (), read: Model | None = None
) -> Trial:
    """Run a pass on a model, or a function that takes and gives a ModelProto.

    A Pass is run with the first of its settings, as `Pass.__call__` does, but with its report kept,
    and with feeds to fit on, one by default. `read`: the model as it was read from somewhere, for a
    Pass.
    """
    before = model.SerializeToString(deterministic=True)
    original = from_proto(model) if read is None else read
    if isinstance(pass_, Pass):
        fit = tuple(feeds) or (feed_of(original, size=2),)
        context = Context(_target(), fit[0], fit)
        changed = clone(original)
        with np.errstate(all="ignore"):
            report = pass_.settings(context)[0].run(changed, context)
        result = files.to_proto(changed)
    else:
        report = None
        result = pass_(model)
        changed = from_proto(result)
    after = model.SerializeToString(deterministic=True)
    return Trial(pass_, model, result, before, after, report, from_proto(_copy(before)), changed)


@cache
def _target() -> Target:
    # where products of bytes saturate, outputs would be others than those of this target
    return replace(targets.load(TARGET), saturates=True)


def called(pass_: PassLike) -> str:
    """What to call a pass in a message and in the code of a test."""
    if isinstance(pass_, Pass):
        options: Any = {
            name: value
            for name, value in vars(pass_).items()
            if value != inspect.signature(type(pass_)).parameters[name].default
        }
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"{type(pass_).__name__}({given})"
    return str(getattr(pass_, "__name__", pass_))


def _copy(data: bytes) -> ModelProto:
    out = ModelProto()
    out.ParseFromString(data)
    return out
