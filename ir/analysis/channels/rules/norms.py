"""Normalizations: channels carry where each has statistics of its own.

BatchNormalization, InstanceNormalization   channel by channel
GroupNormalization                          whole groups
LayerNormalization, Softmax                 not along what they normalize over
"""

from onnx_compress.ir.analysis.channels.axes import Ports
from onnx_compress.ir.analysis.channels.patches import Count


def batch_norm(p: Ports) -> None:
    """All parameters have one number a channel."""
    if p.node.attribute("training_mode", 0):
        return
    _others(p, set())
    for slot in range(1, 5):
        p.same(p.read(slot, 0), p.made(min(1, len(p.made_shape()) - 1)))


def instance_norm(p: Ports) -> None:
    """Over space, channel by channel."""
    p.same(p.read(0, 0), p.made(0))
    p.same(p.read(0, 1), p.made(1))
    for slot in (1, 2):
        p.same(p.read(slot, 0), p.made(1))


def group_norm(p: Ports) -> None:
    """Parameters by channel, or (before operator set 21) by group."""
    groups = p.node.attribute("num_groups", 1)
    p.same(p.read(0, 0), p.made(0))
    x, y = p.read(0, 1), p.made(1)
    p.same(x, y)
    count, inner = p.axes.new(groups), p.axes.new(len(x) // groups)
    p.axes.stay(inner, "normalized together")
    p.axes.grid(x, [count, inner])
    for slot in (1, 2):
        own = p.read(slot, 0)
        p.same(own, x if len(own) == len(x) else count)
    p.patch(Count(p.node, "num_groups", count))


def layer_norm(p: Ports) -> None:
    """LayerNormalization, RMSNormalization: axes before those normalized over."""
    rank = len(p.shape(0))
    axis = p.node.attribute("axis", -1) % rank
    _others(p, set(range(axis, rank)))


def softmax(p: Ports) -> None:
    """One axis, or (before operator set 13) all from it on."""
    rank = len(p.shape(0))
    old = p.model.opset() < 13
    axis = p.node.attribute("axis", 1 if old else -1) % max(rank, 1)
    _others(p, set(range(axis, rank)) if old else {axis})


def along_axis(p: Ports) -> None:
    """LpNormalization, CumSum, TopK: one axis."""
    rank = len(p.shape(0))
    if p.node.op == "CumSum":
        given = p.constant(1)
        if given is None:
            return
        axis = int(given.reshape(-1)[0]) % rank
    else:
        axis = p.node.attribute("axis", -1) % rank
    _others(p, {axis})


def across_channels(p: Ports) -> None:
    """LRN, MeanVarianceNormalization: the batch alone."""
    p.same(p.read(0, 0), p.made(0))


def _others(p: Ports, axes: set[int]) -> None:
    for out in range(len(p.node.outputs)):
        shape = p.made_shape(out)
        if len(shape) != len(p.shape(0)):
            continue
        for axis in range(len(shape)):
            if axis not in axes:
                p.same(p.read(0, axis), p.made(axis, out))
