"""LSTM, GRU, RNN: features that go in, and hidden units.

W [D, gates * H, I]   R [D, gates * H, H]   B [D, 2 * gates * H]     units H go everywhere
"""

from onnx_compress.ir.analysis.channels.axes import Ports
from onnx_compress.ir.analysis.channels.patches import Count

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(p: Ports) -> None:
    """Units of both directions go together, since R has one axis for them."""
    if p.node.attribute("layout", 0) or not p.has(1) or not p.has(2):
        return
    gates = GATES[p.node.op]
    hidden = p.read(2, 2)
    if p.shape(1)[1] != gates * len(hidden):
        return
    p.same(p.read(0, 2), p.read(1, 2))
    for slot, axis, parts in ((1, 1, gates), (2, 1, gates), (3, 1, 2 * gates), (7, 1, 3)):
        if p.has(slot):
            kind = p.axes.new(parts)
            p.axes.stay(kind, "a gate")
            p.axes.grid(p.read(slot, axis), [kind, hidden])
    for slot in (5, 6):
        if p.has(slot):
            p.same(p.read(slot, 2), hidden)
            p.same(p.read(slot, 1), p.read(0, 1))
    for slot, value in enumerate(p.node.outputs):
        if value is not None:
            p.same(p.made(-1, slot), hidden)
            p.same(p.made(-2, slot), p.read(0, 1))
    p.patch(Count(p.node, "hidden_size", hidden))
    p.summed(0, 2)
    p.summed(2, 2)
    width, depth = p.shape(1)[2], len(hidden)
    whole = [p.read(0, 1), p.read(2, 1)]
    p.works(*whole, p.read(0, 2), share=width / (width + depth))
    p.works(*whole, hidden, share=depth / (width + depth))
