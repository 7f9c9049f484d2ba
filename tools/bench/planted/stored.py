"""Faults in the file: weights changed after they were written.

Half of them leave the digests as they were; the other half take them off, so that the weight has to
be found by what it is far from.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from onnx_compress.bench.planted.fault import Case, Outcome, shows, swapped
from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import Model, Value, digests, files
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights.effective import Effective, effective
from onnx_compress.passes.verify.finding import Severity
from onnx_compress.verification import verify

Change = Callable[[Array, Random], Array | None]
_TRIES = 12
_SMALL = 64  # numbers of a weight that is worth a fault


def _flipped(array: Array, rng: Random) -> Array | None:
    """The top bits of one number in fifty."""
    if array.dtype.itemsize > 4:
        return None
    bits = array.copy().view(f"u{array.dtype.itemsize}").reshape(-1)
    picked = rng.sample(range(bits.size), max(bits.size // 50, 1))
    top = {1: 0x60, 2: 0x0800, 4: 0x01000000}[array.dtype.itemsize]
    bits[picked] ^= bits.dtype.type(top)
    return np.asarray(bits.view(array.dtype).reshape(array.shape))


def _turned(array: Array, _: Random) -> Array | None:
    """Laid out the other way round."""
    if array.ndim < 2 or array.shape[0] == 1:
        return None
    return np.ascontiguousarray(array.T.reshape(array.shape))


def _moved(array: Array, _: Random) -> Array | None:
    """By one place: as if read at a wrong offset."""
    return np.roll(array.reshape(-1), 1).reshape(array.shape)


def _shifted(array: Array, _: Random) -> Array | None:
    """By a zero point that is three off."""
    if array.dtype.kind != "i":
        return None
    return np.clip(array.astype(np.int32) + 3, -128, 127).astype(array.dtype)


def _nibbles(array: Array, _: Random) -> Array | None:
    """Halves of bytes exchanged."""
    if array.dtype.itemsize != 1:
        return None
    raw = array.view(np.uint8)
    return np.asarray(((raw >> 4) | (raw << 4)).view(array.dtype))


def _exchanged(array: Array, rng: Random) -> Array | None:
    """Scales of two channels exchanged, or two rows."""
    axis = int(np.argmax(array.shape))
    return swapped(array, rng, axis) if array.shape[axis] > 1 else None


def _doubled(array: Array, _: Random) -> Array | None:
    """Scales of every other channel doubled, as of another weight."""
    if array.dtype.kind != "f":
        return None
    out = array.copy().reshape(-1)
    out[::2] *= array.dtype.type(2)
    return out.reshape(array.shape)


CODES: dict[str, Change] = {
    "flipped codes": _flipped,
    "transposed layout": _turned,
    "wrong offset": _moved,
    "zero point off": _shifted,
    "swapped nibbles": _nibbles,
    "swapped rows": _exchanged,
}
SCALES: dict[str, Change] = {"swapped scales": _exchanged, "scale of another": _doubled}


def plant(case: Case, rng: Random) -> Outcome | None:
    """Change one tensor of one weight, and verify; None where nothing that shows was found."""
    for _ in range(_TRIES):
        model = files.load(case.compressed)
        weights = [w for w in effective(model) if w.codes is not None and _size(model, w) >= _SMALL]
        if not weights:
            return None
        weight = rng.choice(weights)
        kind, target = _choice(model, weight, rng)
        array = model.constant(target)
        if array is None or array.size < 2:
            continue
        changed = {**CODES, **SCALES}[kind](array, rng)
        if changed is None or np.array_equal(changed, array):
            continue
        readers = {w.name for w in effective(model) if target in _parts(model, w)}
        model.set_constant(target, changed)
        bare = rng.random() < 0.5
        if bare:
            model.set_metadata(digests.KEY, None)
        try:
            if not shows(model, case):
                continue
        except CompressError:
            continue
        return _looked(case, model, target, readers, f"{kind}{', no digests' if bare else ''}")
    return None


def _choice(model: Model, weight: Effective, rng: Random) -> tuple[str, Value]:
    scales = [v for v in _parts(model, weight) if v is not weight.codes]
    if scales and rng.random() < 0.4:
        return rng.choice([*SCALES]), rng.choice(scales)
    assert weight.codes is not None
    return rng.choice([*CODES]), weight.codes


def _parts(model: Model, weight: Effective) -> list[Value]:
    """The float tensors, of more than one number, that a weight is decoded with, and its codes."""
    found: dict[Value, None] = {} if weight.codes is None else {weight.codes: None}
    starts: list[Value | None] = [weight.end] if weight.end is not weight.node.output else []
    starts += [v for at, v in enumerate(weight.node.inputs) if at == weight.slot or not starts]
    todo, seen = list(starts), set[Any]()
    while todo and len(seen) < 40:
        at = todo.pop()
        if at is None or at in seen:
            continue
        seen.add(at)
        array = model.constant(at)
        if array is not None:
            if array.dtype.kind == "f" and array.size > 1 and _decodes(at):
                found[at] = None
        elif at.producer is not None and at.producer.op in ("Cast", "Mul", "Sub", "Gather"):
            todo += at.producer.inputs
    return list(found)


def _decodes(value: Value) -> bool:
    return all(node.op in ("Mul", "Gather", "DequantizeLinear") for node in value.consumers)


def _size(model: Model, weight: Effective) -> int:
    array = model.constant(weight.codes)
    return 0 if array is None else array.size


def _looked(case: Case, model: Model, target: Value, readers: set[str], kind: str) -> Outcome:
    result = verify(case.original, model, layers=False)
    bad = [one for one in result.findings if one.severity >= Severity.SUSPECT]
    named = [one for one in bad if one.level == "stored"]
    right = any(one.where == target.name or one.where in readers for one in named)
    said = "; ".join(map(str, bad[:2])) or result.verdict
    return Outcome(kind, f"{target.name} ({', '.join(sorted(readers))})", right, said)
