"""Rows picked as codes, and decoded after that: the table itself is never decoded.

    Gather(W, ids)   ->   Mul(Cast(Gather(codes, ids)), Gather(scale, ids))

The other way round, the whole table would be decoded at every run, or at load into full size.
"""

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.base import Coded, Reader, Stored
from onnx_compress.ir.weights.weight import Use


def allows(use: Use, coded: Coded) -> No | None:
    """A Gather of the stored tensor, with a scale for each row, for each trailing axis, or one."""
    if not use.gathered:
        return No(f"{use.node.op} does not pick rows")
    if use.path.casts:
        return No("the table is cast before rows are picked")
    if use.path.moves:
        return No("the table is turned before rows are picked")
    axis = use.node.attribute("axis", 0) % coded.codes.ndim
    for part in (coded.scale, coded.zero_point):
        if part is not None and part.size > 1 and part.shape[axis] == 1 and axis != 0:
            return No("the scales lie across the rows")
    return None


def read(use: Use, stored: Stored) -> None:
    """Replace the Gather."""
    node, b = use.node, stored.builder(use)
    coded, indices = stored.coded, node.inputs[1]
    axis = node.attribute("axis", 0)
    out = b("Gather", stored.codes(), indices, name=node.proto.name, axis=axis)
    element, dtype = coded.work
    out = b("Cast", out, to=element)
    for op, part in (("Sub", coded.zero_point), ("Mul", coded.scale)):
        if part is not None:
            out = b(op, out, _picked(b, part.astype(dtype), indices, axis))
    if element != coded.element:
        out = b("Cast", out, to=coded.element)
    b.model.replace_uses(node.output, out)
    b.model.remove(node)


def _picked(b: Builder, part: Array, indices: Value | None, axis: int) -> Value:
    at = axis % part.ndim
    if part.shape[at] > 1:
        return b("Gather", b.constant(part, "s"), indices, axis=axis)
    # constant along the rows: broadcasts over the trailing axes, whatever the rank of the indices
    return b.constant(part.reshape(part.shape[at + 1 :] if part.size > 1 else ()), "s")


READER = Reader("gathered", 7, allows, read)
