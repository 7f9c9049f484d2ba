"""Convolutions and matrix products: channels go in where they are summed over, and come out.

Conv          W [O, C/g, k...]     x: grid of g and C/g     y: grid of g and O/g
ConvTranspose W [C, O/g, k...]     depthwise: C/g = 1, so x and y are g alone
MatMul        x [..., M, K] W [K, N]
"""

from onnx_compress.ir.analysis.channels.axes import Ports
from onnx_compress.ir.analysis.channels.patches import Count


def conv(p: Ports) -> None:
    """Channels of a group, and whole groups."""
    _convolution(p, 0, 1)


def conv_transpose(p: Ports) -> None:
    """The same with the weight's axes the other way round."""
    _convolution(p, 1, 0)


def _convolution(p: Ports, rows: int, columns: int) -> None:
    groups = p.node.attribute("group", 1)
    p.same(p.read(0, 0), p.made(0))
    x, y, first, second = p.read(0, 1), p.made(1), p.read(1, rows), p.read(1, columns)
    count = p.axes.new(groups)
    if rows == 0:  # W [g * O/g, C/g]
        inner, outer = second, p.axes.new(len(y) // groups)
        p.same(first, y)
    else:  # W [g * C/g, O/g]
        inner, outer = p.axes.new(len(x) // groups), first
        p.same(second, x)
    p.axes.grid(x, [count, inner])
    p.axes.grid(y, [count, outer])
    if p.has(2):
        p.same(p.read(2, 0), y)
    if groups > 1:
        p.patch(Count(p.node, "group", count))
    p.summed(0, 1)
    p.works(p.made(0), y, inner)


def gemm(p: Ports) -> None:
    """A [M, K] B [K, N] + C."""
    m, k = (1, 0) if p.node.attribute("transA", 0) else (0, 1)
    depth, n = (1, 0) if p.node.attribute("transB", 0) else (0, 1)
    p.same(p.read(0, m), p.made(0))
    p.same(p.read(0, k), p.read(1, depth))
    p.same(p.read(1, n), p.made(1))
    if p.has(2):
        rank = len(p.shape(2))
        for axis in range(rank):
            p.same(p.read(2, axis), p.made(2 - rank + axis))
    p.summed(0, k)
    p.works(p.made(0), p.made(1), p.read(0, k))


def matmul(p: Ports) -> None:
    """Batched; leading axes are aligned as those of Add are."""
    a, b, out = p.shape(0), p.shape(1), p.made_shape()
    if len(a) < 2 or len(b) < 2:
        return
    p.same(p.read(0, -1), p.read(1, -2))
    p.same(p.read(0, -2), p.made(-2))
    p.same(p.read(1, -1), p.made(-1))
    for slot, own in ((0, a), (1, b)):
        for axis in range(len(own) - 2):
            place = axis + len(out) - len(own)
            if own[axis] in (1, out[place]):
                p.same(p.read(slot, axis), p.made(place))
    p.summed(0, -1)
    p.works(*(p.made(axis) for axis in range(len(out))), p.read(0, -1))


def einsum(p: Ports) -> None:
    """A letter is an axis; those that the result has not are summed over."""
    text = p.node.attribute("equation", "").replace(" ", "")
    left, _, right = text.partition("->")
    terms = left.split(",")
    letters = "".join(terms)
    if "." in text or "->" not in text or any(len(set(t)) < len(t) for t in (*terms, right)):
        return
    seen = {letter: p.made(at) for at, letter in enumerate(right)}
    for slot, term in enumerate(terms):
        for axis, letter in enumerate(term):
            if letter not in seen and letters.count(letter) > 1:
                seen[letter] = p.read(slot, axis)
                p.summed(slot, axis)
            if letter in seen:
                p.same(seen[letter], p.read(slot, axis))
    p.works(*seen.values())
