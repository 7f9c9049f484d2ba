"""Nodes put into functions of the model."""

from onnx import FunctionProto, ModelProto, NodeProto, helper

DOMAIN = "drawn.functions"


def outlined(model: ModelProto, twice: bool, at: int = 0) -> ModelProto:
    """A node without bodies or left-out inputs becomes a call of a function.

    `at`: which of them, counted round. With `twice`, all equal calls do. Gives a new model.
    """
    out = ModelProto()
    out.CopyFrom(model)
    plain = [n for n in out.graph.node if all(n.input) and not _has_body(n) and n.domain == ""]
    if not plain:
        return out
    first = plain[at % len(plain)]
    alike = [node for node in plain if twice and _same_call(node, first)] or [first]
    out.functions.append(_function(first, model))
    for node in alike:
        del node.attribute[:]
        node.op_type, node.domain = out.functions[-1].name, DOMAIN
    out.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return out


def _function(node: NodeProto, model: ModelProto) -> FunctionProto:
    inside = NodeProto()
    inside.CopyFrom(node)
    del inside.input[:], inside.output[:]
    inputs = [f"in{at}" for at in range(len(node.input))]
    inside.input.extend(inputs)
    outputs = [f"out{at}" for at in range(len(node.output))]
    inside.output.extend(outputs)
    imports = [entry for entry in model.opset_import if entry.domain == ""]
    return helper.make_function(
        DOMAIN, f"Outlined{node.op_type}", inputs, outputs, [inside], imports
    )


def _has_body(node: NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _same_call(node: NodeProto, other: NodeProto) -> bool:
    return (
        node.op_type == other.op_type
        and list(map(bool, node.input)) == list(map(bool, other.input))
        and len(node.output) == len(other.output)
        and sorted(a.SerializeToString() for a in node.attribute)
        == sorted(a.SerializeToString() for a in other.attribute)
    )
