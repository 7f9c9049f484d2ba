"""Passes with one bug each, and the same passes without it.

Each has `broken`; without, it must hold to everything that it says of itself. Those with a report
are passes, the others functions of a ModelProto.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import ne
from typing import ClassVar

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import shell
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.kernels.affine import dequantize, quantize, symmetric_scale
from onnx_compress.passes import Context, Entry, Pass, Phase, Report, option


@dataclass(frozen=True)
class Base(Pass):
    """`broken`: with the bug."""

    exact: ClassVar[bool] = True
    broken: bool = option(True, "with the bug")

    @property
    def phase(self) -> Phase:
        return Phase.CLEAN

    def run(self, model: Model, context: Context) -> Report:
        return Report(tuple(self.changes(model)))

    def changes(self, model: Model) -> Iterator[Entry]:
        raise NotImplementedError


# ------------------------------------------------------------------------------- weights in codes


@dataclass(frozen=True)
class Coded(Base):
    """Every weight is rounded to codes of eight bits, with a scale for each channel."""

    exact: ClassVar[bool] = False

    @property
    def weight_error(self) -> float:
        return 1 / 127

    def run(self, model: Model, context: Context) -> Report:
        changes, skipped = [], [Entry(s.name, s.reason) for s in context.weights(model).skipped]
        for weight in context.weights(model):
            array = weight.array()
            if array.dtype.kind != "f" or not array.size or not weight.channel_axes:
                skipped.append(Entry(weight.name, "cannot be coded"))
                continue
            scale = symmetric_scale(array, weight.channel_axes, 8)
            codes = quantize(array, scale, 8)
            used = self.used(scale, weight) if self.broken else scale
            decoded = dequantize(codes, used, None, array.dtype)
            if np.array_equal(decoded, array):
                skipped.append(Entry(weight.name, "is coded already"))
                continue
            Dense(decoded).emit(weight)
            changes.append(Entry(weight.name, "coded"))
        return Report(tuple(changes), tuple(skipped))

    def used(self, scale: np.ndarray, weight: Weight) -> np.ndarray:
        """The scales that the codes are multiplied by."""
        raise NotImplementedError


class WrongAxis(Coded):
    """Scales of the channels are read along the axis of the inputs."""

    name = "wrong_axis"

    def used(self, scale: np.ndarray, weight: Weight) -> np.ndarray:
        others = [a for a in range(scale.ndim) if a not in weight.channel_axes]
        shape = [size if axis in others else 1 for axis, size in enumerate(weight.shape)]
        return np.resize(scale, shape)


class ShiftedScales(Coded):
    """Each channel gets the scale of the one before."""

    name = "shifted_scales"

    def used(self, scale: np.ndarray, weight: Weight) -> np.ndarray:
        return np.roll(scale, 1, weight.channel_axes)


class Silent(Coded):
    """Does nothing, and says nothing about it."""

    name = "silent"

    def run(self, model: Model, context: Context) -> Report:
        found = context.weights(model)
        subjects = [] if self.broken else [*found, *found.skipped]
        return Report(skipped=tuple(Entry(item.name, "not worth it") for item in subjects))


# ------------------------------------------------------------------------------------ exact passes


class Halved(Base):
    """Numbers are rounded to half precision; broken, it says that it is exact."""

    name = "halved"

    def run(self, model: Model, context: Context) -> Report:
        changes, skipped = [], [Entry(s.name, s.reason) for s in context.weights(model).skipped]
        for weight in context.weights(model):
            array = weight.array()
            rounded = array.astype("float16").astype(array.dtype)
            if np.array_equal(rounded, array):
                skipped.append(Entry(weight.name, "nothing to round"))
            else:
                Dense(rounded).emit(weight)
                changes.append(Entry(weight.name, "rounded"))
        return Report(tuple(changes), tuple(skipped))


class Rounded(Halved):
    """The correct one."""

    name = "rounded"
    exact = False

    @property
    def weight_error(self) -> float:
        return 2.0**-11


class Turned(Base):
    """A stored matrix behind a Transpose is stored turned; broken, whoever else reads it."""

    name = "turned"

    def changes(self, model: Model) -> Iterator[Entry]:
        for node in [node for node in model.nodes() if node.op == "Transpose"]:
            value = node.input(0)
            array = model.constant(value)
            if value is None or array is None or array.ndim != 2 or node.output.exits:
                continue
            if len(value.uses) > 1 and not self.broken:
                continue
            perm = node.attribute("perm", [1, 0])
            model.set_constant(value, np.ascontiguousarray(array.transpose(perm)))
            model.replace_uses(node.output, value)
            model.remove(node)
            yield Entry(value.name, "turned")


class StaleUses(Base):
    """Nodes that do nothing go; broken, past the verbs, so that use-def lists are not kept up."""

    name = "stale_uses"

    def changes(self, model: Model) -> Iterator[Entry]:
        for node in [node for node in model.nodes() if node.op in ("Identity", "Dropout")]:
            source = node.input(0)
            if source is None or node.output.exits or len(node.outputs) > 1:
                continue
            if self.broken:
                for reader, slot in list(node.output.uses):
                    reader.inputs[slot] = source
                    reader.renamed = True
                del node.graph.nodes[node]
            else:
                model.replace_uses(node.output, source)
                model.remove(node)
            yield Entry(node.name, "went")


class Freed(Base):
    """Numbers are moved to the scratch file; broken, it is emptied before they are read."""

    name = "freed"
    adds_cost = True

    def changes(self, model: Model) -> Iterator[Entry]:
        model.set_metadata("moved", "yes")
        for value, tensor in list(model.stored(model.graph)):
            if value.tensor is not None and tensor.HasField("raw_data"):
                blob = model.storage.append(np.frombuffer(tensor.raw_data, np.uint8))
                value.tensor = shell(without(tensor, {"raw_data"}), blob)
                if self.broken:
                    model.storage.file(blob.location).truncate(0)
                yield Entry(value.name, "moved")
        yield Entry("metadata", "noted")


class Boastful(Base):
    """Reports a change that there is none of."""

    name = "boastful"

    def changes(self, model: Model) -> Iterator[Entry]:
        if self.broken:
            yield Entry("everything", "made better")


class Secretive(Base):
    """Changes something, and does not report it."""

    name = "secretive"
    adds_cost = True

    def changes(self, model: Model) -> Iterator[Entry]:
        model.set_metadata("seen", "yes")
        if not self.broken:
            yield Entry("metadata", "noted")


class Restless(Base):
    """Says that it is idempotent, and counts its runs."""

    name = "restless"
    idempotent = True
    adds_cost = True

    def changes(self, model: Model) -> Iterator[Entry]:
        found = [entry.value for entry in model.shell.metadata_props if entry.key == "runs"]
        if self.broken or not found:
            model.set_metadata("runs", str(len(found) and int(found[0]) + 1))
            yield Entry("metadata", "counted")


class Growing(Base):
    """Nodes are added, of which only the correct one says that it costs."""

    name = "growing"

    def changes(self, model: Model) -> Iterator[Entry]:
        for node in list(model.graph.nodes):
            if not node.output.exits and node.output.uses:
                between = model.add_node(model.graph, "Identity", [node.output])
                model.replace_uses(node.output, between, partial(ne, between.producer))
                yield Entry(node.name, "followed by Identity")


class Grown(Growing):
    """The correct one."""

    name = "grown"
    adds_cost = True


# --------------------------------------------------------------------------------------- functions


def _copy(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    return out


def _bodies(node: NodeProto) -> list:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _read(graph, deep: bool = True) -> set[str]:
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
        if source is None or not _does_nothing(node, source):
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
    positive = source.op_type in ("Relu", "Abs", "Sigmoid", "Softmax", "Exp")
    return node.op_type in ("Identity", "Dropout", *(("Relu", "Abs") if positive else ()))


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


Tried = Pass | Callable[[ModelProto], ModelProto]


def _pair(function: Callable[..., ModelProto], adds_cost: bool = False) -> tuple[Tried, Tried]:
    pair = (function, partial(function, broken=False))
    for one in pair if adds_cost else ():
        one.adds_cost = True  # type: ignore[attr-defined]
    return pair


# what is wrong: the pass that does it, the correct one, and the checks that may find it
KINDS: dict[str, tuple[tuple[Tried, Tried], tuple[str, ...]]] = {
    "wrong quantization axis": ((WrongAxis(), WrongAxis(broken=False)), ("outputs_kept",)),
    "scales off by a channel": ((ShiftedScales(), ShiftedScales(broken=False)), ("outputs_kept",)),
    "exact pass that is not": ((Halved(), Rounded(broken=False)), ("outputs_kept",)),
    "shared weight changed": ((Turned(), Turned(broken=False)), ("outputs_kept", "loads")),
    "stale use-def lists": ((StaleUses(), StaleUses(broken=False)), ("valid",)),
    "freed tensor": ((Freed(), Freed(broken=False)), ("LoadError", "valid")),
    "reports, does nothing": ((Boastful(), Boastful(broken=False)), ("modified_is_different",)),
    "does, reports nothing": ((Secretive(), Secretive(broken=False)), ("unmodified_is_identical",)),
    "does and says nothing": ((Silent(), Silent(broken=False)), ("all_accounted_for",)),
    "not idempotent": ((Restless(), Restless(broken=False)), ("idempotent",)),
    "costs more": ((Growing(), Grown(broken=False)), ("cost_not_grown",)),
    "dangling capture": (_pair(unused_removed), ("valid",)),
    "side output removed": (_pair(idle_taken_out), ("valid",)),
    "transB forgotten": (_pair(gemm_split, adds_cost=True), ("outputs_kept", "loads", "valid")),
    "bias broadcast wrongly": (_pair(bias_split, adds_cost=True), ("outputs_kept", "loads")),
    "metadata dropped": (_pair(rebuilt), ("metadata_kept",)),
    "documentation dropped": (_pair(undocumented), ("metadata_kept",)),
    "unstable order": (_pair(shuffled), ("deterministic",)),
    "interface changed": (_pair(closed), ("interface_kept",)),
    "argument changed": (_pair(in_place), ("argument_untouched",)),
}
