"""Nodes moved into branches and functions."""

from onnx import ModelProto, TensorProto, helper

from onnx_compress.testing.mutations.base import Names, Rng, bodies, copy
from onnx_compress.testing.mutations.nodes import copy_of
from onnx_compress.testing.outline import outlined

_TYPED = 13  # operator set from which If gives out what needs no declared shape


def captured_by_branch(model: ModelProto, rng: Rng) -> ModelProto | None:
    """A node into both branches of an If, which capture what it reads, weights among them."""
    out = copy(model)
    nodes = list(out.graph.node)
    plain = [
        node
        for node in nodes
        if not bodies(node) and len(node.output) == 1 and node.op_type in ("MatMul", "Gemm", "Conv")
    ]
    if not plain or _opset(out) < _TYPED:
        return None
    chosen = plain[int(rng.integers(len(plain)))]
    names = Names(out)
    condition, given = names.fresh("always"), chosen.output[0]
    out.graph.initializer.append(helper.make_tensor(condition, TensorProto.BOOL, [], [True]))
    branches = {}
    for branch in ("then_branch", "else_branch"):
        inside = copy_of(chosen)
        inside.name = names.fresh(f"{chosen.name}_{branch}")
        inside.output[0] = names.fresh(f"{given}_{branch}")
        info = helper.make_empty_tensor_value_info(inside.output[0])
        branches[branch] = helper.make_graph([inside], names.fresh(branch), [], [info])
    moved = helper.make_node("If", [condition], [given], names.fresh("branch"), **branches)
    nodes[next(at for at, node in enumerate(nodes) if node is chosen)] = moved
    kept = [copy_of(node) for node in nodes]
    del out.graph.node[:]
    out.graph.node.extend(kept)
    return out


def outlined_into_function(model: ModelProto, rng: Rng) -> ModelProto | None:
    """A node becomes a call of a function of the model."""
    if model.ir_version < 8 or model.functions:
        return None
    made = outlined(model, bool(rng.integers(2)))
    return made if made.functions else None


def _opset(model: ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain == "")
