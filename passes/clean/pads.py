"""Padding into the convolution behind it:  Conv(Pad(x, p), pads=q)  ->  Conv(x, pads=p + q)

Zeros along the spatial axes alone, by numbers that are known. Computed values stay as they are, and
so do long windows and columns: there ONNX Runtime is slower by padding of its own (0.5 to 0.8x
measured), and faster elsewhere (1.0 to 1.5x).
"""

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.patterns import No, sole_consumer
from onnx_compress.ir.weights.path import stored_floats
from onnx_compress.passes.base import Entry, Report

_LONG = 16  # a window


def fold_pads(model: Model) -> Report:
    """Everywhere."""
    changes: list[Entry] = []
    for node in [node for node in model.nodes() if node.op == "Pad"]:
        if node not in node.graph.nodes:
            continue
        conv, added = sole_consumer(node.output, "Conv"), _spatial(model, node)
        if isinstance(conv, No) or isinstance(added, No) or node.output is not conv.input(0):
            continue
        own = _own(conv, len(added))
        if own is None or node.input(0) is None or _slow(model, conv, added):
            continue
        model.set_attribute(conv, "pads", [a + b for a, b in zip(added, own, strict=True)])
        model.set_attribute(conv, "auto_pad", None)
        model.set_input(conv, 0, node.input(0))
        remove_unused(model, [node.output])
        changes.append(Entry(conv.name, "takes over the padding before it"))
    return Report(tuple(changes))


def _slow(model: Model, conv: Node, added: list[int]) -> bool:
    """By the window alone, since shapes may be open: a column may well be one of a wide picture."""
    weight = stored_floats(model, conv.input(1))
    if weight is None or weight.ndim != len(added) // 2 + 2:
        return False
    sizes, rank = weight.shape[2:], weight.ndim - 2
    padded = [size for at, size in enumerate(sizes) if added[at] or added[at + rank]]
    column = rank > 1 and sizes[-1] == 1 and not (added[rank - 1] or added[-1])
    return column or max(padded, default=0) > _LONG


def _own(conv: Node, count: int) -> list[int] | None:
    """The padding that it has; None where it depends on the shape."""
    if conv.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = list(conv.attribute("pads", [0] * count))
    return pads if len(pads) == count else None


def _spatial(model: Model, node: Node) -> list[int] | No:
    """Numbers of zeros before, then after, each axis but the first two."""
    if node.attribute("mode", "constant") != "constant":
        return No("it pads with something else than a constant")
    pads = node.attribute("pads")
    if pads is None and node.input(1) is not None:
        array = model.constant(node.input(1))
        pads = None if array is None else array.reshape(-1).tolist()
    if pads is None or node.input(3) is not None:
        return No("by numbers that are computed, or along some axes")
    value = node.attribute("value", 0.0)
    if node.input(2) is not None:
        given = model.constant(node.input(2))
        value = None if given is None or given.size != 1 else float(given.reshape(-1)[0])
    rank = len(pads) // 2
    if value != 0 or rank < 3 or len(pads) % 2:
        return No("not with zeros")
    before, after = pads[:rank], pads[rank:]
    if any((*before[:2], *after[:2])) or min(*before, *after) < 0:
        return No("along samples or channels, or it cuts off")
    return [*before[2:], *after[2:]]
