"""Nodes with bodies: what a branch of If gives out is what the node gives out.

Loop and Scan cut and join what goes in and out at run time, so all of that stays.
"""

from onnx_compress.ir.analysis.channels.axes import Ports, UnknownShape


def branches(p: Ports) -> None:
    """The outputs of both branches, position by position."""
    for _, body in p.node.bodies:
        for slot, (value, _) in enumerate(body.outputs):
            try:
                ids = p.axes.of(value)
                shape = p.made_shape(slot)
            except UnknownShape:
                continue
            if len(ids) != len(shape):
                for one in ids:
                    p.axes.stay(one, "branches give other shapes")
                continue
            for axis, one in enumerate(ids):
                if len(one) == shape[axis]:
                    p.same(one, p.made(axis, slot))
                else:
                    p.axes.stay(one, "branches give other shapes")
                    p.axes.stay(p.made(axis, slot), "branches give other shapes")
