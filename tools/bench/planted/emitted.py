"""Faults of a form: it puts other numbers into the graph than it says that it holds.

form.decode() -> numbers          form.emit(weight) -> nodes of other numbers
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, ClassVar

import numpy as np

from onnx_compress.bench.planted.fault import Case, Outcome, swapped
from onnx_compress.ir.errors import CompressError, VerificationError
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights import Weight, find_weights
from onnx_compress.ir.weights.forms import READERS, Affine, affine
from onnx_compress.kernels.affine import quantize, symmetric_scale
from onnx_compress.passes.verify.emitted import emit

_SMALL = 64
_TRIES = 12


@dataclass(frozen=True, eq=False)
class Faulty:
    """Says that it is one form, and emits another."""

    name: ClassVar[str] = "faulty"
    said: Affine
    made: Affine

    def decode(self) -> Array:
        """What was chosen."""
        return self.said.decode()

    def nbytes(self) -> int:
        """Of what was chosen."""
        return self.said.nbytes()

    def emit(self, weight: Weight) -> None:
        """What was not."""
        self.made.emit(weight)


def _other_axis(form: Affine, _: Random) -> Affine | None:
    """Scales along an axis of the same size."""
    scale = form.scale
    if scale is None:
        return None
    wide = [axis for axis, dim in enumerate(scale.shape) if dim > 1]
    same = [
        axis
        for axis, dim in enumerate(form.codes.shape)
        if len(wide) == 1 and axis != wide[0] and dim == scale.shape[wide[0]]
    ]
    return replace(form, scale=np.swapaxes(scale, wide[0], same[0])) if same else None


def _one_off(form: Affine, _: Random) -> Affine | None:
    codes = np.clip(form.codes.astype(np.int16) + 1, -128, 127).astype(np.int8)
    return replace(form, codes=codes)


def _turned(form: Affine, _: Random) -> Affine | None:
    if form.codes.ndim < 2:
        return None
    return replace(form, codes=np.ascontiguousarray(form.codes.T.reshape(form.codes.shape)))


def _nibbles(form: Affine, _: Random) -> Affine | None:
    raw = form.codes.view(np.uint8)
    return replace(form, codes=np.asarray(((raw >> 4) | (raw << 4)).view(np.int8)))


def _flipped(form: Affine, rng: Random) -> Affine | None:
    codes = form.codes.copy().reshape(-1)
    codes[rng.randrange(codes.size)] ^= np.int8(0x40)
    return replace(form, codes=codes.reshape(form.codes.shape))


def _scales(form: Affine, rng: Random) -> Affine | None:
    if form.scale is None or form.scale.size < 2:
        return None
    return replace(form, scale=swapped(form.scale, rng, int(np.argmax(form.scale.shape))))


def _another(form: Affine, _: Random) -> Affine | None:
    """The scale of another weight: half as large, say."""
    return None if form.scale is None else replace(form, scale=form.scale * np.float32(0.5))


def _blocks(form: Affine, _: Random) -> Affine | None:
    """Scales taken for blocks of two channels."""
    if form.scale is None or form.scale.size < 2:
        return None
    flat = form.scale.reshape(-1)
    pairs = flat[np.arange(flat.size) // 2 * 2]
    return replace(form, scale=pairs.reshape(form.scale.shape))


KINDS: dict[str, Callable[[Affine, Random], Affine | None]] = {
    "wrong axis": _other_axis,
    "zero point off by one": _one_off,
    "transposed layout": _turned,
    "swapped nibbles": _nibbles,
    "flipped code": _flipped,
    "swapped scales": _scales,
    "scale of another weight": _another,
    "wrong block size": _blocks,
}


def plant(case: Case, rng: Random) -> Outcome | None:
    """Emit one weight of the original by a faulty form; None where nothing differs."""
    for _ in range(_TRIES):
        model = files.load(case.original)
        weights = [w for w in find_weights(model) if w.size >= _SMALL and w.uses]
        weights = [weight for weight in weights if weight.dtype == "FLOAT"]
        if not weights:
            return None
        weight = rng.choice(weights)
        form = _form(weight, rng)
        kind = rng.choice([*KINDS])
        made = KINDS[kind](form, rng)
        if made is None or np.array_equal(made.decode(), form.decode()):
            continue
        names = {use.node.name for use in weight.uses}
        return _emitted(Faulty(form, made), weight, names, f"{kind} ({_readers(form)})")
    return None


def _emitted(form: Faulty, weight: Weight, names: set[str], kind: str) -> Outcome:
    name = weight.name
    try:
        emit(form, weight)
    except VerificationError as error:
        return Outcome(kind, name, error.where in names and name in error.message, str(error))
    except CompressError as error:
        return Outcome(kind, name, True, f"refused: {error}")
    return Outcome(kind, name, False, "nothing")


def _form(weight: Weight, rng: Random) -> Affine:
    """Eight bits, read in any way that is allowed."""
    array = weight.array()
    scale = symmetric_scale(array, weight.channel_axes, 8)
    plain = affine(weight, quantize(array, scale, 8), scale, {})
    readers: dict[Any, str] = {}
    for use in weight.uses:
        fitting = [name for name, one in READERS.items() if one.allows(use, plain) is None]
        readers[use] = rng.choice(fitting)
    return replace(plain, readers=readers)


def _readers(form: Affine) -> str:
    return ", ".join(sorted({*form.readers.values()}))
