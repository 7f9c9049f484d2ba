"""gs nodes to ONNX, each the proto it came from with what a script changed."""

from typing import Any

from onnx import AttributeProto, NodeProto
from onnx_graphsurgeon import Graph as GsGraph

from onnx_compress.ir.errors import CompressError, UnsupportedError
from onnx_compress.ir.graph.gs import attributes as gs_attributes
from onnx_compress.ir.graph.gs.scopes import bodies_of
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Node


def write_node(node: Any, before: Node | None, storage: Storage) -> NodeProto:
    """A node whose bodies are still empty. Raises UnsupportedError for odd attributes."""
    out = NodeProto()
    if before is not None:
        out = without(before.proto, {"input", "output", "attribute"})
    if (out.op_type, out.domain) != (node.op, node.domain or ""):
        out.op_type = node.op
        for field in ("overload", "domain"):  # of the function that was called
            out.ClearField(field)
        if node.domain is not None:
            out.domain = node.domain
    if out.name != (node.name or ""):
        out.name = node.name or ""
    out.input.extend([tensor.name for tensor in node.inputs])
    out.output.extend([tensor.name for tensor in node.outputs])
    old = {a.name: a for a in before.proto.attribute} if before is not None else {}
    bodies = dict(bodies_of(node))
    for key, value in node.attrs.items():
        if key in bodies:
            out.attribute.append(_housing(key, value, old.get(key)))
            continue
        try:
            out.attribute.append(gs_attributes.write(key, value, old.get(key), storage))
        except CompressError:
            raise
        except Exception as error:  # whatever gs, onnx and numpy raise
            hint = "the attribute is of no kind that ONNX has"
            raise UnsupportedError(f"{key}: {error}", hint, label(out)) from error
    return out


def _housing(key: str, value: Any, old: AttributeProto | None) -> AttributeProto:
    """The attribute of a body, without it."""
    kind = AttributeProto.GRAPH if isinstance(value, GsGraph) else AttributeProto.GRAPHS
    if old is not None and old.type == kind:
        return old
    return AttributeProto(name=key, type=kind)


def is_as_before(proto: NodeProto, before: Node) -> bool:
    """Whether a node is written as it was, bodies left out."""
    old = before.proto
    if before.renamed:
        old = without(old, {"input", "output"})
        old.input.extend([value.name if value else "" for value in before.inputs])
        old.output.extend([value.name if value else "" for value in before.outputs])
    new_bytes, old_bytes = (p.SerializeToString(deterministic=True) for p in (proto, old))
    return bool(new_bytes == old_bytes)


def label(proto: NodeProto) -> str:
    """What a node is called in a report."""
    return proto.name or next((name for name in proto.output if name), proto.op_type)
