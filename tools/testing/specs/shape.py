"""Operators that move, join, cut, and do nothing."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import ALL, MOST, Spec, closed, number


def _free(x: Known) -> int:
    """The first axis whose size is known."""
    return 1 if x.open else 0


def _axis(b: Builder, x: Known) -> int:
    """An axis of known size, counted from either end."""
    axis = b.integer(_free(x), x.rank - 1)
    return axis - x.rank if b.flag() else axis


def _at(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    axis %= len(shape)
    return (*shape[:axis], size, *shape[axis + 1 :])


def _reshape(b: Builder, x: Known) -> Known:
    """Two axes into one, or one into two; an open axis stays."""
    axis = b.integer(_free(x), x.rank - 1)
    shape = list(x.shape)
    if axis + 1 < x.rank and b.flag():
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    else:
        size = shape[axis]
        part = b.one_of([1, *(n for n in (2, 3, 4, 8) if size % n == 0)])
        shape[axis : axis + 1] = [part, size // part]
    asked = [0 if x.open and at == 0 else size for at, size in enumerate(shape)]
    if b.flag():
        asked[-1] = -1
    return b.add("Reshape", [x, b.integers(*asked)], x, tuple(shape))


def _flatten(b: Builder, x: Known) -> Known:
    axis = b.integer(1, x.rank)
    axis = 1 if x.open else axis
    first = int(np.prod(x.shape[:axis], dtype=np.int64))
    return b.add("Flatten", [x], x, (first, x.size // max(first, 1)), axis=axis)


def _transpose(b: Builder, x: Known) -> Known:
    perm, first = list(range(x.rank)), max(_free(x), int(_half(x)))
    for at in range(x.rank - 1, first, -1):
        other = b.integer(first, at)
        perm[at], perm[other] = perm[other], perm[at]
    return b.add("Transpose", [x], x, tuple(x.shape[axis] for axis in perm), perm=perm)


def _reverse(b: Builder, x: Known) -> Known:
    """A Transpose without perm turns all axes round."""
    return b.add("Transpose", [x], x, x.shape[::-1])


def _axes(b: Builder, axes: list[int]) -> tuple[list[str], dict[str, list[int]]]:
    """As input or attribute, by the operator set."""
    return ([b.integers(*axes)], {}) if b.opset >= 13 else ([], {"axes": axes})


def _half(x: Known) -> bool:
    """Whether the first axis must stay first.

    ONNX Runtime 1.32 crashes when it loads MatMul behind a Transpose of float16 that moves the
    first of three or more axes inwards: it fuses them, and has no such product of float16.
    """
    return x.dtype.name == "float16" and x.rank > 2


def _unsqueeze(b: Builder, x: Known) -> Known:
    axis = b.integer(_free(x), x.rank)
    inputs, options = _axes(b, [axis])
    return b.add(
        "Unsqueeze", [x, *inputs], x, (*x.shape[:axis], 1, *x.shape[axis:]), options=options
    )


def _squeeze(b: Builder, x: Known) -> Known:
    axis = b.one_of([a for a in range(_free(x), x.rank) if x.shape[a] == 1])
    inputs, options = _axes(b, [axis])
    return b.add(
        "Squeeze", [x, *inputs], x, (*x.shape[:axis], *x.shape[axis + 1 :]), options=options
    )


def _concat(b: Builder, x: Known) -> Known:
    """With values that differ in one axis alone, or with itself, or with a constant."""
    axis = b.integer(_free(x), x.rank - 1)
    rest = _at(x.shape, axis, 0)
    others = b.find(
        lambda k: (
            (k.dtype, k.open, k.rank) == (x.dtype, x.open, x.rank)
            and _at(k.shape, axis, 0) == rest
            and k.size <= MOST
        )
    )
    found = [x, b.one_of(others or [x])]
    inputs: list[str | Known] = [*found]
    size = sum(k.shape[axis] for k in found)
    if not x.open and b.flag():
        inputs.append(b.weight(_at(x.shape, axis, 2), x.dtype))
        size += 2
    degree = max(k.degree for k in found)
    place = axis - x.rank if b.flag() else axis
    return b.add("Concat", inputs, x, _at(x.shape, axis, size), degree=degree, axis=place)


def _split(b: Builder, x: Known) -> Known:
    axis = b.one_of([a for a in range(_free(x), x.rank) if x.shape[a] > 1])
    first = b.integer(1, x.shape[axis] - 1)
    parts = [first, x.shape[axis] - first]
    inputs, options = ([b.integers(*parts)], {}) if b.opset >= 13 else ([], {"split": parts})
    shapes = [_at(x.shape, axis, part) for part in parts]
    return b.add("Split", [x, *inputs], x, outputs=shapes, axis=axis, options=options)


def _slice(b: Builder, x: Known) -> Known:
    axis = _axis(b, x)
    size = x.shape[axis]
    start = b.integer(0, size - 1)
    stop = b.integer(start + 1, size)
    step = b.integer(1, 2)
    backwards = b.flag()
    bounds = (stop - 1, start - 1 - size, -step) if backwards else (start, stop, step)
    inputs = [b.integers(bounds[0]), b.integers(bounds[1]), b.integers(axis), b.integers(bounds[2])]
    length = -(-(stop - start) // step)
    return b.add("Slice", [x, *inputs], x, _at(x.shape, axis, length))


def _pad(b: Builder, x: Known) -> Known:
    begins, ends = (
        [0 if at < _free(x) else b.integer(0, 1) for at in range(x.rank)] for _ in range(2)
    )
    mode = b.one_of(["constant", "edge"])
    shape = tuple(
        size + before + after for size, before, after in zip(x.shape, begins, ends, strict=True)
    )
    return b.add("Pad", [x, b.integers(*begins, *ends)], x, shape, mode=mode)


def _gather(b: Builder, x: Known) -> Known:
    axis = _axis(b, x)
    count = b.integer(1, 4)
    chosen = b.rng.integers(-x.shape[axis], x.shape[axis], count)
    place = axis % x.rank
    return b.add("Gather", [x, b.integers(*chosen)], x, _at(x.shape, place, count), axis=axis)


def _pick(b: Builder, x: Known) -> Known:
    """One position, whose axis goes."""
    axis = b.integer(_free(x), x.rank - 1)
    index = b.constant(np.array(b.integer(0, x.shape[axis] - 1), np.int64))
    return b.add("Gather", [x, index], x, (*x.shape[:axis], *x.shape[axis + 1 :]), axis=axis)


def _expand(b: Builder, x: Known) -> Known:
    axis = b.one_of([a for a in range(_free(x), x.rank) if x.shape[a] == 1])
    shape = _at(x.shape, axis, b.integer(1, 4))
    return b.add("Expand", [x, b.integers(*([1] if x.open else []), *shape[_free(x) :])], x, shape)


def _tile(b: Builder, x: Known) -> Known:
    repeats = [1 if at < _free(x) else b.integer(1, 2) for at in range(x.rank)]
    shape = tuple(size * times for size, times in zip(x.shape, repeats, strict=True))
    return b.add("Tile", [x, b.integers(*repeats)], x, shape)


def _computed_reshape(b: Builder, x: Known) -> Known:
    """The shape is computed, as exporters of dynamic models do it."""
    sizes = b.add("Shape", [x], x, (x.rank,), dtype=np.int64, open=False)
    first = b.add(
        "Slice", [sizes, b.integers(0), b.integers(1), b.integers(0)], sizes, (1,), open=False
    )
    asked = b.add("Concat", [first, b.integers(-1)], first, (2,), open=False, axis=0)
    return b.add("Reshape", [x, asked], x, (x.shape[0], x.size // max(x.shape[0], 1)))


def _identity(b: Builder, x: Known) -> Known:
    return b.add("Identity", [x], x)


def _dropout(b: Builder, x: Known) -> Known:
    return b.add("Dropout", [x, b.constant(np.float32(0.5))] if b.flag() else [x], x)


def _roomy(known: Known) -> bool:
    return known.is_float and known.rank > _free(known)


def _turned(known: Known) -> bool:
    return closed(known) and known.rank > 1 and not _half(known)


def _of_one(known: Known) -> bool:
    return _roomy(known) and 1 in known.shape[_free(known) :]


def _cut(known: Known) -> bool:
    return _roomy(known) and max(known.shape[_free(known) :]) > 1


def _light(known: Known) -> bool:
    return _roomy(known) and known.rank < 5 and known.size * 2**known.rank <= MOST


SHAPE = (
    Spec(("Reshape",), lambda k: _roomy(k) and k.rank < 5, _reshape, since=13, floats=ALL),
    Spec(
        ("Reshape", "Shape", "Slice", "Concat"),
        _roomy,
        _computed_reshape,
        since=13,
        block="computed_reshape",
    ),
    Spec(("Flatten",), lambda k: k.is_float and k.rank > 0, _flatten, floats=ALL),
    Spec(("Transpose",), lambda k: k.is_float and k.rank > 1, _transpose, floats=ALL),
    Spec(("Transpose",), _turned, _reverse, floats=ALL),
    Spec(("Unsqueeze",), lambda k: k.is_float and 0 < k.rank < 5, _unsqueeze, floats=ALL),
    Spec(("Squeeze",), _of_one, _squeeze, floats=ALL),
    Spec(("Concat",), _light, _concat, floats=ALL),
    Spec(("Split",), _cut, _split, floats=ALL),
    Spec(("Slice",), _roomy, _slice, since=10, floats=ALL),
    Spec(("Pad",), _light, _pad, since=11),
    Spec(("Gather",), _roomy, _gather, since=11, floats=ALL),
    Spec(("Gather",), _roomy, _pick, since=11, floats=ALL),
    Spec(("Expand",), _of_one, _expand, since=8, floats=ALL),
    Spec(("Tile",), _light, _tile, since=6),
    Spec(("Identity",), number, _identity, keeps=True, floats=ALL),
    Spec(("Dropout",), number, _dropout, since=12, keeps=True),
)
