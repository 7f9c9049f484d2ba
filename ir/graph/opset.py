"""Raising the version of the default operator set.

A node stays as it is where the newer operator means the same, which is read off the two schemas:
same inputs, attributes and defaults, and every old type still allowed. Operators whose spelling
changed are rewritten by a row of `REWRITES`. Anything else refuses the raise, with the reason.
Source: the changelog of ONNX operators, through onnx.defs.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx.defs import OpSchema

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value

Types = dict[Value, TensorType]
Rewrite = Callable[[Model, Node, Types], No | None]

NEWEST = onnx.defs.onnx_opset_version()


def _attribute_to_input(attribute: str, slot: int) -> Rewrite:
    """Squeeze(axes=[1]) -> Squeeze(x, [1])"""

    def rewrite(model: Model, node: Node, _: Types) -> No | None:
        given = node.attribute(attribute)
        if given is not None:
            array = np.atleast_1d(np.asarray(given, np.int64))
            _append(model, node, slot, array, attribute)
            model.set_attribute(node, attribute, None)
        return None

    return rewrite


def _append(model: Model, node: Node, slot: int, array: Array, name: str) -> None:
    value = model.add_constant(node.graph, array, f"{node.name}.{name}")
    while len(node.inputs) <= slot:
        node.inputs.append(None)
    model.set_input(node, slot, value)


def _scalars(*attributes: tuple[str, float | None]) -> Rewrite:
    """Clip(min=0, max=6) -> Clip(x, 0, 6), in the element type of x."""

    def rewrite(model: Model, node: Node, types: Types) -> No | None:
        source = node.input(0)
        known = types.get(source) if source is not None else None
        if known is None:
            return No(f"the type of {node.op}'s input is unknown")
        for slot, (attribute, default) in enumerate(attributes, start=1):
            given = node.attribute(attribute, default)
            if given is not None:
                _append(model, node, slot, np.array(given, np_dtype(known.element)), attribute)
                model.set_attribute(node, attribute, None)
        return None

    return rewrite


def _pad(model: Model, node: Node, types: Types) -> No | None:
    """Pad(pads=..., value=...) -> Pad(x, pads, value)"""
    value = node.attribute("value", 0.0)
    _append(model, node, 1, np.asarray(node.attribute("pads"), np.int64), "pads")
    model.set_attribute(node, "pads", None)
    model.set_attribute(node, "value", None)
    source = node.input(0)
    known = types.get(source) if source is not None else None
    if known is None or known.element != onnx.TensorProto.FLOAT:
        return No("Pad of another type than float32")
    _append(model, node, 2, np.array(value, np.float32), "value")
    return None


def _softmax(model: Model, node: Node, types: Types) -> No | None:
    """Softmax over all axes from `axis` on is the newer one only where that is the last axis."""
    source = node.input(0)
    known = types.get(source) if source is not None else None
    rank = len(known.shape) if known is not None and known.shape is not None else None
    axis = node.attribute("axis", 1)
    if rank is None or axis not in (rank - 1, -1):
        return No(f"{node.op} over several axes")
    model.set_attribute(node, "axis", -1)
    return None


def _spatial(model: Model, node: Node, _: Types) -> No | None:
    """BatchNormalization(spatial=1), the default, is the only one left."""
    if node.attribute("spatial", 1) != 1:
        return No("BatchNormalization with statistics for each place")
    model.set_attribute(node, "spatial", None)
    return None


def _one_output(model: Model, node: Node, types: Types) -> No | None:
    """The further outputs of BatchNormalization changed; unused ones go."""
    if any(value is not None and value.is_used for value in node.outputs[1:]):
        return No("BatchNormalization in training form")
    model.drop_outputs(node, 1)
    return _spatial(model, node, types)


def _split_count(model: Model, node: Node, _: Types) -> No | None:
    """Split into equal parts says how many."""
    if node.input(1) is None and node.attribute("split") is None:
        model.set_attribute(node, "num_outputs", len(node.outputs))
    return None


def _slice(model: Model, node: Node, _: Types) -> No | None:
    """Slice(starts=..., ends=..., axes=...) -> Slice(x, starts, ends, axes)"""
    for slot, attribute in enumerate(("starts", "ends", "axes"), start=1):
        given = node.attribute(attribute)
        if given is not None:
            _append(model, node, slot, np.atleast_1d(np.asarray(given, np.int64)), attribute)
            model.set_attribute(node, attribute, None)
    return None


def _top_k(model: Model, node: Node, _: Types) -> No | None:
    """TopK(k=3) -> TopK(x, [3])"""
    _append(model, node, 1, np.array([node.attribute("k")], np.int64), "k")
    model.set_attribute(node, "k", None)
    return None


def _dropout(model: Model, node: Node, _: Types) -> No | None:
    """The ratio means nothing where nothing is trained."""
    if any(value is not None and value.is_used for value in node.outputs[1:]):
        return No("Dropout with a mask that is used")
    model.drop_outputs(node, 1)
    model.set_attribute(node, "ratio", None)
    return None


def _larger(model: Model, node: Node, _: Types) -> No | None:
    """Upsample(x, scales) or Resize(x, scales) -> Resize(x, roi, scales), as it was before set 11.

    Where something gets smaller, nearest was another one.
    """
    scales = node.attribute("scales")
    known = model.constant(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(scales)
    if known is None or known.dtype.kind != "f" or (known < 1).any():
        return No(f"{node.op} by factors that are computed, or below one")
    roi = model.add_constant(node.graph, np.empty(0, np.float32), f"{node.name}.roi")
    sizes = model.add_constant(node.graph, known.astype(np.float32), f"{node.name}.scales")
    mode = node.attribute("mode", "nearest")
    new = model.add_node(
        node.graph,
        "Resize",
        [node.input(0), roi, sizes],
        name=node.proto.name,
        like=node,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    model.replace_uses(node.output, new)
    model.remove(node)
    remove_unused(model, node.inputs[1:])
    return None


def _refused(_: Model, node: Node, __: Types) -> No | None:
    """Meaning changed although the schema did not."""
    return No(f"{node.op} changed its meaning")


# operator -> (operator set that brought the change, how a node is rewritten)
REWRITES: dict[str, tuple[tuple[int, Rewrite], ...]] = {
    "Squeeze": ((13, _attribute_to_input("axes", 1)),),
    "Unsqueeze": ((13, _attribute_to_input("axes", 1)),),
    "ReduceSum": ((13, _attribute_to_input("axes", 1)),),
    "Split": ((13, _attribute_to_input("split", 1)), (18, _split_count)),
    **{
        f"Reduce{kind}": ((18, _attribute_to_input("axes", 1)),)
        for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
    "Slice": ((10, _slice),),
    "TopK": ((10, _top_k),),
    "Dropout": ((12, _dropout),),
    "Upsample": ((11, _larger),),  # the Resize of set 10 has other inputs
    "Resize": ((11, _larger),),
    "Clip": ((11, _scalars(("min", None), ("max", None))),),
    "Pad": ((11, _pad),),
    "Softmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "BatchNormalization": ((9, _spatial), (14, _one_output)),
    "GroupNormalization": ((21, _refused),),
    "PRelu": ((7, _refused),),
}


def raise_to(model: Model, version: int, types: Types | None = None) -> None:
    """Raise the default operator set to at least `version`, on a model that may be thrown away.

    `types`: what is known of values; by default what can be inferred. Raises UnsupportedError
    with the operator that stands in the way; the model is then half done.
    """
    now = model.opset()
    if now >= version:
        return
    if model.functions:
        raise UnsupportedError("the operator set of a model with functions cannot be raised")
    if version > NEWEST:
        raise UnsupportedError(f"operator set {version} is unknown to the installed onnx")
    types = infer(model) if types is None else types
    for node in list(model.nodes()):
        if node.proto.domain not in ("", "ai.onnx"):
            continue
        changes = [rewrite for at, rewrite in REWRITES.get(node.op, ()) if now < at <= version]
        results = [rewrite(model, node, types) for rewrite in changes]
        refused = next((r for r in results if r is not None), None)
        if not changes:
            refused = _changed(node, now, version)
        if refused is not None:
            raise UnsupportedError(
                f"operator set {now} cannot be raised to {version}: {refused.reason}",
                "export the model with a newer operator set",
                node.name,
            )
    model.set_opset("", version)
    imports = list(model.shell.opset_import)
    model.raise_ir_version(onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))


def _changed(node: Node, now: int, version: int) -> No | None:
    try:
        old = onnx.defs.get_schema(node.op, now)
        new = onnx.defs.get_schema(node.op, version)
    except onnx.defs.SchemaError:
        return No(f"{node.op} is unknown")
    if old.since_version == new.since_version:
        return None
    if new.deprecated:
        return No(f"{node.op} was withdrawn")
    same = _inputs_fit(old, new) and _attributes_fit(old, new)
    return None if same else No(f"{node.op} changed its meaning")


def _inputs_fit(old: OpSchema, new: OpSchema) -> bool:
    if len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return False
    optional = OpSchema.FormalParameterOption.Single
    if any(extra.option == optional for extra in new.inputs[len(old.inputs) :]):
        return False
    pairs = [*zip(old.inputs, new.inputs, strict=False)]
    pairs += [*zip(old.outputs, new.outputs, strict=False)]
    return all(a.name == b.name and set(a.types) <= set(b.types) for a, b in pairs)


def _attributes_fit(old: OpSchema, new: OpSchema) -> bool:
    for name, attribute in old.attributes.items():
        other = new.attributes.get(name)
        if other is None or other.type != attribute.type:
            return False
        if other.default_value != attribute.default_value:
            return False
    return not any(a.required for name, a in new.attributes.items() if name not in old.attributes)
