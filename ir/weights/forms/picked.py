"""Rows picked as bytes, and unpacked after that: the table itself is never decoded.

    Gather(W, ids)   ->   unpacked(Gather(bytes, ids)) * Gather(scale, ids)

See `digits` for the arithmetic. The other way round, the whole table would be decoded at load, into
full size.
"""

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import dims
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.base import Reader
from onnx_compress.ir.weights.forms.digits import unpacked_fast
from onnx_compress.ir.weights.forms.packed import Packed, StoredBytes, decoded, trimmed
from onnx_compress.ir.weights.weight import Use


def allows(use: Use, form: Packed) -> No | None:
    """A Gather along the first axis of the stored tensor, whose rows are those of the form."""
    if not use.gathered:
        return No(f"{use.node.op} does not pick rows")
    if use.path.casts or use.path.moves:
        return No("the table is changed before rows are picked")
    if use.node.attribute("axis", 0) % len(form.order.stored):
        return No("rows are not picked along the first axis")
    rows = form.order.rows == form.order.stored[0] and not any(
        move.perm for move in form.order.moves
    )
    return None if rows else No("the rows of the table are not those that share scales")


def read(use: Use, stored: StoredBytes) -> None:
    """Replace the Gather."""
    node, b, form = use.node, stored.builder(use), stored.form
    indices = node.inputs[1]
    rank = _rank(b, indices)
    ids = indices if rank else b("Reshape", indices, _constant(b, [-1]))

    def picked(part: Value) -> Value:
        return b("Gather", part, ids, axis=0)

    rows = b("Gather", stored.codes(), ids, name=node.proto.name, axis=0)
    codes = unpacked_fast(b, form.packing, rows, form.axis, form.work[1])
    zero = picked(stored.zero()) if np.ndim(form.zero) else stored.zero()
    lead = [0] * (rank or 1)
    out = decoded(b, form, codes, picked(stored.scale()), zero, lead)
    out = trimmed(b, form, out, lead)
    shape = form.order.stored[1:]
    if not rank:
        whole = b("Concat", b("Shape", indices), _constant(b, list(shape)), axis=0)
        out = b("Reshape", out, whole)
    elif len(shape) > 1:
        out = b("Reshape", out, _constant(b, [0] * rank + list(shape)))
    if form.work[0] != form.element:
        out = b("Cast", out, to=form.element)
    b.model.replace_uses(node.output, out)
    b.model.remove(node)


def _rank(b: Builder, indices: Value | None) -> int | None:
    """Of constants and inputs; what a file says of other values is often wrong."""
    if indices is None:
        return None
    tensor = b.model.tensor(indices)
    if tensor is not None:
        return len(dims(tensor))
    known = declared(indices.info) if indices.is_input else None
    return len(known.shape) if known is not None and known.shape is not None else None


def _constant(b: Builder, numbers: list[int]) -> Value:
    return b.constant(np.array(numbers, np.int64), "shape")


READER = Reader("picked", 10, allows, read)
