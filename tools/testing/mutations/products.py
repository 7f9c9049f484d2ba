"""Matrix products spelled in another way."""

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnx_compress.testing.mutations.base import Names, Rng, copy, readers, weights
from onnx_compress.testing.mutations.nodes import copy_of


def _options(node: NodeProto) -> dict[str, float]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def gemm_split(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Gemm without turns and factors becomes MatMul and Add."""
    out = copy(model)
    names = Names(out)
    nodes, done = [], False
    for node in out.graph.node:
        given = _options(node)
        plain = not given.get("transA", 0) and not given.get("transB", 0)
        plain &= given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or node.domain or not plain:
            nodes.append(copy_of(node))
            continue
        done = True
        biased = len(node.input) > 2 and node.input[2]
        made = names.fresh("product") if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", list(node.input[:2]), [made], node.name))
        if biased:
            nodes.append(
                helper.make_node("Add", [made, node.input[2]], list(node.output), f"{node.name}_b")
            )
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out if done else None


def transposed_product(model: ModelProto, rng: Rng) -> ModelProto | None:
    """transB of Gemm flipped, its weight turned."""
    out = copy(model)
    names = Names(out)
    stored = {tensor.name: tensor for tensor in weights(out)}
    done = False
    for node in out.graph.node:
        if node.op_type != "Gemm" or node.domain or node.input[1] not in stored:
            continue
        tensor = stored[node.input[1]]
        turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
        name = names.fresh(f"{tensor.name}_turned")
        if len(readers(out, tensor.name)) == 1:
            tensor.CopyFrom(numpy_helper.from_array(turned, name))
        else:
            out.graph.initializer.append(numpy_helper.from_array(turned, name))
        node.input[1] = name
        given = _options(node)
        del node.attribute[:]
        given["transB"] = 1 - int(given.get("transB", 0))
        for key in sorted(given):
            node.attribute.append(helper.make_attribute(key, given[key]))
        done = True
    return out if done else None
