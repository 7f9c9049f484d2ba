"""Passes with one bug each, and the same passes without it; see also `broken_functions`.

Each has `broken`; without, it must hold to everything that it says of itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import ne
from typing import ClassVar

import numpy as np

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
