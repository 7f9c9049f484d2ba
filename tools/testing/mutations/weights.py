"""Weights kept in another way."""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.testing.mutations.base import (
    Names,
    Rng,
    copy,
    graphs,
    insert,
    readers,
    reread,
    some,
    taken_out,
    weights,
)


def as_constant_nodes(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Constant nodes instead of initializers."""
    out = copy(model)
    chosen = some(weights(out), rng)
    for tensor in chosen:
        value = TensorProto()
        value.CopyFrom(tensor)
        insert(
            out, helper.make_node("Constant", [], [tensor.name], f"{tensor.name}_c", value=value)
        )
    taken_out(out, {tensor.name for tensor in chosen})
    return out if chosen else None


def as_inputs(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Initializers listed as inputs, as format 3 asks for it: there they may not be overridden."""
    out = copy(model)
    bodies_own = any(graph.initializer for graph in list(graphs(out.graph))[1:])
    if out.ir_version < 4 or out.functions or bodies_own or not out.graph.initializer:
        return None
    out.ir_version = 3
    for tensor in out.graph.initializer:
        known = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        out.graph.input.append(known)
    return out


def _behind(model: ModelProto, rng: Rng, op: str, turn: bool = False) -> ModelProto | None:
    out = copy(model)
    names = Names(out)
    chosen = some([w for w in weights(out) if not turn or len(w.dims) == 2], rng)
    for tensor in chosen:
        new = names.fresh(f"{tensor.name}_{op.lower()}")
        reread(out, tensor.name, new)
        options: dict[str, Any] = {"perm": [1, 0]} if turn else {}
        if turn:
            turned = numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), tensor.name)
            tensor.CopyFrom(turned)
        insert(out, helper.make_node(op, [tensor.name], [new], names.fresh(new), **options))
    return out if chosen else None


def behind_identity(model: ModelProto, rng: Rng) -> ModelProto | None:
    """An Identity between weight and reader."""
    return _behind(model, rng, "Identity")


def behind_transpose(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Matrices stored the other way round, with a Transpose."""
    return _behind(model, rng, "Transpose", turn=True)


def behind_cast(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Weights stored as doubles of the same numbers, with a Cast."""
    out = copy(model)
    names = Names(out)
    chosen = some([w for w in weights(out) if w.data_type == TensorProto.FLOAT], rng)
    for tensor in chosen:
        new = names.fresh(f"{tensor.name}_cast")
        reread(out, tensor.name, new)
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
        node = helper.make_node(
            "Cast", [tensor.name], [new], names.fresh(new), to=TensorProto.FLOAT
        )
        insert(out, node)
    return out if chosen else None


def shared(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Every weight twice, its readers shared out between the two."""
    out = copy(model)
    names = Names(out)
    done = False
    for tensor in weights(out):
        uses = readers(out, tensor.name)
        if len(uses) < 2:
            continue
        twin = TensorProto()
        twin.CopyFrom(tensor)
        twin.name = names.fresh(f"{tensor.name}_twin")
        out.graph.initializer.append(twin)
        for node, slot in some(uses, rng)[: len(uses) - 1]:
            node.input[slot] = twin.name
        done = True
    return out if done else None


def tied(model: ModelProto, rng: Rng) -> ModelProto | None:
    """One more reader for a weight, whose result is added with a factor of zero.

    A weight of two readers must not be changed for one of them alone.
    """
    out = copy(model)
    floats = [i for i in out.graph.output if i.type.tensor_type.elem_type == TensorProto.FLOAT]
    found = [w for w in weights(out) if w.data_type == TensorProto.FLOAT]
    if not floats or not found:
        return None
    names = Names(out)
    tensor = found[int(rng.integers(len(found)))]
    target = floats[0].name
    inner = names.fresh("inner")
    for node in out.graph.node:
        for slot, name in enumerate(node.output):
            if name == target:
                node.output[slot] = inner
    reread(out, target, inner)
    parts = [names.fresh(stem) for stem in ("flat", "largest", "nothing")]
    shape, zero = names.fresh("flat_shape"), names.fresh("zero")
    out.graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [1], [-1]))
    out.graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT, [], [0.0]))
    out.graph.node.extend(
        [
            helper.make_node("Reshape", [tensor.name, shape], [parts[0]], parts[0]),
            helper.make_node("ReduceMax", [parts[0]], [parts[1]], parts[1], keepdims=0),
            helper.make_node("Mul", [parts[1], zero], [parts[2]], parts[2]),
            helper.make_node("Add", [inner, parts[2]], [target], names.fresh("sum")),
        ]
    )
    return out
