"""Operators that move numbers: which position goes where.

Reshape   [2, 384] -> [2, 12, 32]      the 384 are the grid of 12 and 32
Concat    positions one after the other; Split, Slice, Gather: some of them
"""

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_compress.ir.analysis.channels.axes import LARGEST, Ports
from onnx_compress.ir.analysis.channels.patches import Bounds, Padding, Parts, Picked, Sizes
from onnx_compress.ir.analysis.channels.symbols import Dim, Symbols, Unclear
from onnx_compress.ir.graph.elements import Array


def blocks(one: Sequence[int], other: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes of two shapes with equal products; axes of 1 are left out."""
    a = [axis for axis, size in enumerate(one) if size != 1]
    b = [axis for axis, size in enumerate(other) if size != 1]
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        x, y = one[left[0]], other[right[0]]
        while x != y:
            if x < y and a:
                left.append(a.pop(0))
                x *= one[left[-1]]
            elif y < x and b:
                right.append(b.pop(0))
                y *= other[right[-1]]
            else:
                return
        yield left, right


def reshaped(p: Ports) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    old, new = p.shape(0), p.made_shape()
    for left, right in blocks(old, new) if 0 not in old else ():
        sources, made = [p.read(0, axis) for axis in left], [p.made(axis) for axis in right]
        size = int(np.prod([old[axis] for axis in left]))
        if len(left) == 1:
            p.axes.grid(sources[0], made)
        elif len(right) == 1:
            p.axes.grid(made[0], sources)
        elif size <= LARGEST:
            flat = p.axes.new(size)
            p.axes.grid(flat, sources)
            p.axes.grid(flat, made)
        else:
            for ids in (*sources, *made):
                p.axes.stay(ids, "an axis that is too long to follow")


def reshape(p: Ports, symbols: Symbols) -> None:
    """Sizes that are written down are counted anew; -1 and 0 are left to the runtime."""
    reshaped(p)
    p.close("reshaped in a way that cannot be followed")
    whole = {-1} if p.node.attribute("allowzero", 0) else {-1, 0}
    sized(p, symbols, 1, range(len(p.made_shape())), whole)


def sized(
    p: Ports, symbols: Symbols, slot: int, axes: Sequence[int], free: set[int] | None = None
) -> None:
    """Elements of input `slot` are the sizes of these axes of the output."""
    elements = symbols.elements(p.node.input(slot))
    counted: dict[int, tuple[Array, Array]] = {}
    for at, axis in enumerate(axes):
        ids = p.made(axis)
        element = None if elements is None or at >= elements.size else elements[at]
        if element is None or isinstance(element, Unclear):
            p.axes.stay(ids, "its size is computed at run time")
            for dim in element.dims if element is not None else ():
                p.axes.stay(p.axes.of(dim.value)[dim.axis], "sizes are computed from it")
        elif isinstance(element, Dim):
            source = p.axes.of(element.value)[element.axis]
            if len(source) != len(ids):
                p.axes.stay(ids, "its size is computed at run time")
                p.axes.stay(source, "sizes are computed from it")
            elif p.axes.always(element.value, element.axis):
                counted[at] = ids, source
            else:
                p.same(source, ids)
        elif element == len(ids) > 1 and element not in (free or ()):
            counted[at] = ids, ids[:0]
    if counted and elements is not None:
        p.patch(Sizes(p.node, slot, elements.size, counted))


def expand(p: Ports, symbols: Symbols) -> None:
    """Axes of one position are repeated, the others are as they were."""
    own, shape = p.shape(0), p.made_shape()
    for axis in range(len(own)):
        place = axis + len(shape) - len(own)
        if own[axis] == shape[place]:
            p.same(p.read(0, axis), p.made(place))
    elements = symbols.elements(p.node.input(1))
    if elements is not None:
        sized(p, symbols, 1, range(len(shape) - elements.size, len(shape)), {1})


def constant_of_shape(p: Ports, symbols: Symbols) -> None:
    """All of its sizes are given."""
    sized(p, symbols, 0, range(len(p.made_shape())))


def tile(p: Ports) -> None:
    """Axes that are not repeated."""
    repeats = p.constant(1)
    if repeats is None:
        return
    for axis, count in enumerate(repeats):
        if count == 1:
            p.same(p.read(0, axis), p.made(axis))


def transpose(p: Ports) -> None:
    """Axes in another order."""
    rank = len(p.shape(0))
    for axis, source in enumerate(p.node.attribute("perm", range(rank)[::-1])):
        p.same(p.read(0, source), p.made(axis))


def _all_but(p: Ports, axes: set[int], slot: int = 0, out: int = 0) -> None:
    for axis in range(len(p.shape(slot))):
        if axis not in axes:
            p.same(p.read(slot, axis), p.made(axis, out))


def concat(p: Ports) -> None:
    """Positions of one input after those of another."""
    axis = p.node.attribute("axis", 0) % len(p.made_shape())
    parts = [p.read(slot, axis) for slot in range(len(p.node.inputs))]
    p.same(np.concatenate(parts), p.made(axis))
    _single(p, parts, p.made(axis))
    for slot in range(len(parts)):
        _all_but(p, {axis}, slot)


def _single(p: Ports, parts: list[Array], whole: Array) -> None:
    """Parts of one position always stay."""
    at = 0
    for part in parts:
        if len(part) == 1:
            p.axes.stay(whole[at : at + 1], "the only position of an axis")
        at += len(part)


def split(p: Ports) -> None:
    """Inverse of Concat."""
    axis = p.node.attribute("axis", 0) % len(p.shape(0))
    if any(value is None for value in p.node.outputs):
        return
    parts = [p.made(axis, slot) for slot in range(len(p.node.outputs))]
    whole = p.read(0, axis)
    if sum(map(len, parts)) != len(whole):
        return
    p.same(np.concatenate(parts), whole)
    _single(p, parts, whole)
    for slot in range(len(parts)):
        _all_but(p, {axis}, 0, slot)
    p.patch(Parts(p.node, tuple(parts)))


def sliced(p: Ports) -> None:
    """With step 1, between constant bounds; axes that are not cut in any case."""
    shape = p.shape(0)
    first, end, axes, steps = (_list(p, slot) for slot in range(1, 5))
    if first is None and not p.has(1):
        names = ("starts", "ends", "axes")
        first, end, axes = (p.node.attribute(name) for name in names)
    if axes is None:
        if p.has(3) or (p.shape(1) if p.has(1) else ()) not in ((), (len(shape),)):
            return
        axes = list(range(len(first))) if first is not None else list(range(len(shape)))
    axes = [axis % len(shape) for axis in axes]
    _all_but(p, set(axes))
    if first is None or end is None or (steps is None and p.has(4)):
        return
    cut: dict[int, tuple[Array, int, int]] = {}
    for at, axis in enumerate(axes):
        low, high, step = slice(first[at], end[at], (steps or [1] * len(axes))[at]).indices(
            shape[axis]
        )
        if step != 1:
            continue
        ids, made = p.read(0, axis), p.made(axis)
        if high - low != len(made):
            p.axes.stay(ids, "cut where it cannot be told")
        p.same(ids[low:high], made)
        _single(p, [made], ids[low:high])
        cut[axis] = (ids, low, high)
    if cut:
        p.patch(Bounds(p.node, cut))


def _list(p: Ports, slot: int) -> list[int] | None:
    found = p.constant(slot)
    return None if found is None else [int(number) for number in found.reshape(-1)]


def gather(p: Ports) -> None:
    """Constant indices pick positions; others pick from an axis that stays."""
    shape, picked = p.shape(0), p.shape(1)
    axis = p.node.attribute("axis", 0) % len(shape)
    for at in range(len(shape)):
        if at != axis:
            p.same(p.read(0, at), p.made(at if at < axis else at - 1 + len(picked)))
    indices = p.constant(1)
    if indices is None:
        for at in range(len(picked)):
            p.same(p.read(1, at), p.made(axis + at))
        return
    if len(picked) > 1:
        return
    ids, flat = p.read(0, axis), indices.reshape(-1) % shape[axis]
    if picked and len(flat) > 1:
        p.same(ids[flat], p.made(axis))
        p.patch(Picked(p.node, flat.astype(indices.dtype), ids, p.made(axis)))
    else:
        p.axes.stay(ids[flat], "picked alone")
        p.patch(Picked(p.node, (indices % shape[axis]).astype(indices.dtype), ids, None))


def pad(p: Ports) -> None:
    """Added zeros are positions of their own."""
    rank = len(p.shape(0))
    given = p.constant(1) if p.has(1) else p.node.attribute("pads")
    axes = _list(p, 3) if p.has(3) else list(range(rank))
    if given is None or axes is None:
        return
    axes = [axis % rank for axis in axes]
    _all_but(p, set(axes))
    added: dict[int, Array] = {}
    for at, axis in enumerate(axes):
        before, after = int(given[at]), int(given[at + len(axes)])
        if not before and not after:
            p.same(p.read(0, axis), p.made(axis))
        elif p.node.attribute("mode", "constant") == "constant" and min(before, after) >= 0:
            made = p.made(axis)
            middle = made[before : before + len(p.read(0, axis))]
            _single(p, [p.read(0, axis)], middle)
            p.same(p.read(0, axis), middle)
            added[at] = made[:before]
            added[at + len(axes)] = made[len(made) - after :]
    if added:
        p.patch(Padding(p.node, added))


def depth_to_space(p: Ports) -> None:
    """Blocks of positions become space: all of a channel's go together."""
    size = p.node.attribute("blocksize", 1)
    block = [_whole(p, size), _whole(p, size)]
    p.same(p.read(0, 0), p.made(0))
    deep = [p.made(1)]
    first = p.node.attribute("mode", "DCR") == "CRD"
    p.axes.grid(p.read(0, 1), deep + block if first else block + deep)


def space_to_depth(p: Ports) -> None:
    """Inverse of depth_to_space in its usual mode."""
    size = p.node.attribute("blocksize", 1)
    p.same(p.read(0, 0), p.made(0))
    p.axes.grid(p.made(1), [_whole(p, size), _whole(p, size), p.read(0, 1)])


def _whole(p: Ports, size: int) -> Array:
    ids = p.axes.new(size)
    p.axes.stay(ids, "a place in space")
    return ids
