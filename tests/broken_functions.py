"""Functions of a ModelProto with one bug each; with `broken=False`, without it."""

import random

from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

_POSITIVE = ("Abs", "Sigmoid", "Softmax", "Exp", "Softplus", "Sqrt", "ReduceL2", "Reciprocal")
_LIKE_RELU = ("Relu", "LeakyRelu", "PRelu", "Elu", "Celu")  # of positive numbers, themselves


def _copy(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    return out


def _bodies(node: NodeProto) -> list[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _read(graph: GraphProto, deep: bool = True) -> set[str]:
    found = {name for node in graph.node for name in node.input}
    found |= {info.name for info in graph.output}
    for node in graph.node if deep else ():
        found |= {name for body in _bodies(node) for name in _read(body)}
    return found


def unused_removed(model: ModelProto, broken: bool = True) -> ModelProto:
    """Initializers that nothing reads go; broken, also those that only bodies read."""
    out = _copy(model)
    read = _read(out.graph, deep=not broken)
    kept = [tensor for tensor in out.graph.initializer if tensor.name in read]
    del out.graph.initializer[:]
    out.graph.initializer.extend(kept)
    return out


def idle_taken_out(model: ModelProto, broken: bool = True) -> ModelProto:
    """What does nothing goes, and what it read takes its name; broken, whoever else reads that."""
    out = _copy(model)
    made = {name: node for node in out.graph.node for name in node.output if name}
    for at, node in enumerate(out.graph.node):
        source = made.get(node.input[0]) if any(node.input) else None
        if source is None or node.op_type == source.op_type or not _does_nothing(node, source):
            continue
        name, rest = node.input[0], _copy(out)
        del rest.graph.node[at]
        if name in _read(rest.graph) and not broken:
            continue
        place = list(source.output).index(name)
        source.output[place] = node.output[0]
        del out.graph.node[at]
        return out
    return out


def _does_nothing(node: NodeProto, source: NodeProto) -> bool:
    idle = node.op_type in ("Identity", "Dropout")
    return idle or (node.op_type in _LIKE_RELU and source.op_type in _POSITIVE)


def gemm_split(model: ModelProto, broken: bool = True) -> ModelProto:
    """Gemm becomes MatMul and Add; broken, whether its weight is turned or not."""
    out = _copy(model)
    nodes = []
    for node in model.graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        turned = given.get("transA") or (given.get("transB") and not broken)
        factors = given.get("alpha", 1) != 1 or given.get("beta", 1) != 1
        if node.op_type != "Gemm" or turned or factors or node.domain:
            nodes.append(node)
            continue
        biased, last = len(node.input) > 2, node.output[0]
        product = f"{last}_product" if biased else last
        nodes.append(helper.make_node("MatMul", node.input[:2], [product]))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [last]))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def bias_split(model: ModelProto, broken: bool = True) -> ModelProto:
    """The bias of Conv becomes an Add; broken, along the last axis."""
    out = _copy(model)
    stored = {tensor.name: tensor for tensor in out.graph.initializer}
    nodes = []
    for node in out.graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in stored:
            continue
        bias = numpy_helper.to_array(stored[node.input[2]])
        axes = len(stored[node.input[1]].dims) - 2
        shaped = bias if broken else bias.reshape(-1, *[1] * axes)
        name, last = f"{node.output[0]}_bias", node.output[0]
        out.graph.initializer.append(numpy_helper.from_array(shaped, name))
        node.output[0] = f"{last}_product"
        del node.input[2]
        nodes.append(helper.make_node("Add", [node.output[0], name], [last]))
    kept = [_copied(node) for node in nodes]
    del out.graph.node[:]
    out.graph.node.extend(kept)
    return unused_removed(out, broken=False)


def _copied(node: NodeProto) -> NodeProto:
    out = NodeProto()
    out.CopyFrom(node)
    return out


def rebuilt(model: ModelProto, broken: bool = True) -> ModelProto:
    """The same graph in a new model; broken, without what the old one said of itself."""
    out = _copy(model)
    if broken:
        del out.metadata_props[:]
        out.ClearField("producer_name")
    return out


def undocumented(model: ModelProto, broken: bool = True) -> ModelProto:
    """Nodes made anew; broken, without their documentation."""
    out = _copy(model)
    for node in out.graph.node if broken else ():
        node.ClearField("doc_string")
    return out


def shuffled(model: ModelProto, broken: bool = True) -> ModelProto:
    """Initializers in an order that comes from a set; broken, a different one every time."""
    out = _copy(model)
    tensors = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    if broken:
        random.shuffle(tensors)
    del out.graph.initializer[:]
    out.graph.initializer.extend(tensors)
    return out


def closed(model: ModelProto, broken: bool = True) -> ModelProto:
    """Open dimensions become those of the sample."""
    out = _copy(model)
    for info in (*out.graph.input, *out.graph.output) if broken else ():
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    return out


def in_place(model: ModelProto, broken: bool = True) -> ModelProto:
    """Names of nodes are made shorter; broken, in the model that was given."""
    out = model if broken else _copy(model)
    for at, node in enumerate(out.graph.node):
        node.name = f"{at}"
    return out
