"""Pooling, resizing and reductions: channels carry, space does not."""

from onnx_compress.ir.analysis.channels.axes import Ports
from onnx_compress.ir.analysis.channels.rules.shapes import sized
from onnx_compress.ir.analysis.channels.symbols import Symbols


def pool(p: Ports) -> None:
    """Places that MaxPool gives out count through all channels."""
    if len(p.node.outputs) > 1 and p.node.outputs[1] is not None and p.node.outputs[1].is_used:
        return
    for axis in (0, 1):
        p.same(p.read(0, axis), p.made(axis))


def reduce(p: Ports) -> None:
    """ReduceMean and its like, ArgMax: axes that are not reduced."""
    rank = len(p.shape(0))
    given = p.constant(1)
    axes = given.reshape(-1).tolist() if given is not None else p.node.attribute("axes")
    if p.node.op in ("ArgMax", "ArgMin"):
        axes = [p.node.attribute("axis", 0)]
    if axes is None:  # all, or told at run time
        return
    gone = {int(axis) % rank for axis in axes}
    out = 0
    for axis in range(rank):
        if axis in gone:
            out += p.node.attribute("keepdims", 1)
        else:
            p.same(p.read(0, axis), p.made(out))
            out += 1


def resize(p: Ports, symbols: Symbols) -> None:
    """Axes whose size stays."""
    old, new = p.shape(0), p.made_shape()
    odd = p.node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if odd or p.node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return
    axes = [axis % len(old) for axis in p.node.attribute("axes", range(len(old)))]
    scales = p.constant(1 if p.node.op == "Upsample" or len(p.node.inputs) == 2 else 2)
    if p.has(3):
        sized(p, symbols, 3, axes)
    elif scales is None or len(scales) != len(axes):
        return
    for axis in range(len(old)):
        changed = axis in axes and not p.has(3) and scales is not None
        scale = float(scales[axes.index(axis)]) if changed and scales is not None else 1.0
        if old[axis] == new[axis] and scale == 1.0:
            p.same(p.read(0, axis), p.made(axis))
        elif axis in axes and p.has(3):
            p.axes.stay(p.made(axis), "resized")
