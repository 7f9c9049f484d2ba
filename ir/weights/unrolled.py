"""Convolutions as matrix products: the window of the input behind each number of the output.

    Conv              y[p] = W . x[p * stride - pad + k * dilation]     [groups, windows, C/g * k]
    ConvTranspose     the same on x with stride - 1 zeros between its numbers, kernels turned round

Windows are taken sample by sample, all of them or a random choice that depends on nothing but their
number, so that the same are taken in whatever batches samples come.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node

_AT_ONCE = 1 << 20  # numbers of windows in memory


def convolution_windows(
    node: Node, x: Array, kernel: Sequence[int], groups: int, limit: int | None
) -> Iterator[Array]:
    """Rows [groups, n, C/groups * kernel] of Conv; x: [N, C, space...]."""
    space = x.shape[2:]
    strides = tuple(node.attribute("strides", [1] * len(space)))
    dilations = tuple(node.attribute("dilations", [1] * len(space)))
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    around = pads(node, space, wide, strides)
    yield from _windows(x, tuple(kernel), strides, dilations, around, groups, limit)


def places_of_windows(x: Array, limit: int | None) -> Iterator[Array]:
    """Rows [1, n, C] of what has the shape of an output of Conv: those of the windows taken."""
    ones = (1,) * (x.ndim - 2)
    yield from _windows(x, ones, ones, ones, ((0, 0),) * len(ones), 1, limit)


def transposed_windows(
    node: Node, x: Array, kernel: Sequence[int], groups: int, limit: int | None
) -> Iterator[Array]:
    """Rows [groups, n, C/groups * kernel] of ConvTranspose; x: [N, C, space...]."""
    rank = len(kernel)
    strides = node.attribute("strides", [1] * rank)
    dilations = tuple(node.attribute("dilations", [1] * rank))
    shape = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], strides, strict=True)]
    spread = np.zeros((*x.shape[:2], *shape), x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    wide = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    begin, end = _cropped(node, x.shape[2:], wide, strides)
    pads = tuple((w - a, w - b) for w, a, b in zip(wide, begin, end, strict=True))
    ones = (1,) * rank
    for rows in _windows(spread, tuple(kernel), ones, dilations, pads, groups, limit):
        turned = rows.reshape(*rows.shape[:2], -1, prod(kernel))[..., ::-1]
        yield turned.reshape(rows.shape)


def pads(
    node: Node, space: Sequence[int], wide: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """What a convolution adds before and after each axis; `wide`: its kernel, dilated."""
    mode = node.attribute("auto_pad", "NOTSET")
    rank = len(space)
    if mode in ("NOTSET", ""):
        given = node.attribute("pads", [0] * 2 * rank)
        return tuple((given[i], given[rank + i]) for i in range(rank))
    found = []
    for size, width, stride in zip(space, wide, strides, strict=True):
        total = 0 if mode == "VALID" else max((-(-size // stride) - 1) * stride + width - size, 0)
        small = total // 2
        found.append((small, total - small) if mode != "SAME_LOWER" else (total - small, small))
    return tuple(found)


def _cropped(
    node: Node, space: Sequence[int], wide: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What ConvTranspose cuts off at both ends of its whole result; less than nothing adds."""
    rank = len(space)
    extra = list(node.attribute("output_padding", [0] * rank))
    asked = node.attribute("output_shape")
    mode = node.attribute("auto_pad", "NOTSET")
    if asked is None and mode in ("NOTSET", "", "VALID"):
        pads = node.attribute("pads", [0] * 2 * rank) if mode != "VALID" else [0] * 2 * rank
        return list(pads[:rank]), [pads[rank + i] - extra[i] for i in range(rank)]
    begin, end = [], []
    for i in range(rank):
        whole = (space[i] - 1) * strides[i] + wide[i] + 1 + extra[i]
        out = asked[-rank:][i] if asked is not None else space[i] * strides[i]
        total = max(whole - out, 0)
        half = total - total // 2 if mode == "SAME_LOWER" else total // 2
        begin.append(half)
        end.append(total - half - extra[i])
    return begin, end


def _windows(
    x: Array,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    groups: int,
    limit: int | None,
) -> Iterator[Array]:
    if not x.size:
        return
    places, outside = _places(x.shape[2:], kernel, strides, dilations, pads, limit)
    each, per = x.shape[1] // groups, prod(kernel)
    step = max(_AT_ONCE // (x.shape[1] * per), 16)
    for sample in x:
        flat = sample.reshape(x.shape[1], -1)
        for start in range(0, len(places), step):
            part = places[start : start + step]
            found = np.take(flat, part.reshape(-1), axis=1, mode="clip")  # twice as fast
            if outside is not None:
                found[:, outside[start : start + step].reshape(-1)] = 0
            found = found.reshape(groups, each, len(part), per)
            yield found.transpose(0, 2, 1, 3).reshape(groups, len(part), each * per)


@lru_cache(maxsize=64)
def _places(
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    limit: int | None,
) -> tuple[Array, Array | None]:
    """Flat indices [windows, kernel] into a sample, and which of them are padding, if any are."""
    counts = [
        max((size + a + b - (k - 1) * d - 1) // s + 1, 0)
        for size, k, s, d, (a, b) in zip(space, kernel, strides, dilations, pads, strict=True)
    ]
    total = prod(counts)
    chosen = np.arange(total)
    if limit is not None and limit < total:
        chosen = np.sort(np.random.default_rng(total).choice(total, limit, replace=False))
    corners = np.unravel_index(chosen, counts) if total else [np.zeros(0, np.int64)] * len(space)
    offsets = np.array(list(product(*map(range, kernel))), np.int64).reshape(-1, len(space))
    places = np.zeros((len(chosen), len(offsets)), np.int64)
    outside = np.zeros(places.shape, bool)
    for axis, size in enumerate(space):
        at = np.asarray(corners[axis])[:, None] * strides[axis] - pads[axis][0]
        at = at + offsets[None, :, axis] * dilations[axis]
        outside |= (at < 0) | (at >= size)
        places = places * size + np.clip(at, 0, size - 1)
    return places, outside if outside.any() else None
