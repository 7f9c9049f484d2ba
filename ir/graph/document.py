"""What can be asked of a model: graphs, versions, constants, interface."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import tensors
from onnx_compress.ir.graph.build import Builder
from onnx_compress.ir.graph.elements import Array, Tensor, nbytes
from onnx_compress.ir.graph.export import skeleton
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Graph, Node, Value

DEFAULT_DOMAINS = ("", "ai.onnx")
_SEVERAL = 4  # two layers with biases


class Document:
    """An ONNX model as a graph of values and nodes, to be read.

    `graph` is the main graph, `functions` the model-local ones, `shell` the ModelProto without
    them. Weights are read with `constant`, never held.
    """

    def __init__(
        self, proto: ModelProto, folder: Path | None = None, storage: Storage | None = None
    ):
        """View of a proto, which is neither copied nor changed.

        `folder` is where external data may be. Raises InvalidError and LoadError.
        """
        self.storage = storage or Storage()
        self.names: set[str] = set()
        self.edits = 0  # how many verbs have been applied
        self._fresh: dict[str, int] = {}
        self._reserved: set[str] = set()
        self.shell = without(proto, {"graph", "functions"})
        build = Builder(self.storage, folder, self.names)
        self.graph = build.graph(proto.graph)
        self._hold_what_trains(proto)
        self.functions = [build.graph(function) for function in proto.functions]
        self.listed = self._lists_weights()

    def _lists_weights(self) -> bool:
        """Whether inputs with a default are but weights: several, most of all that is stored.

        Files before IR 4 must list them so, and exporters of 2019 went on with it: with PyTorch up
        to 1.2 a caller could replace each of a network's weights. See `Model.unlist`.
        """
        if self.ir_version < 4:
            return True
        inputs = [value.tensor for value, _ in self.graph.inputs if value.tensor is not None]
        few = len(inputs) < max(_SEVERAL, len(self.graph.initializers) / 2)
        if few or self.shell.training_info:
            return False
        stored = sum(nbytes(tensor) for _, tensor in self.stored(self.graph))
        return 2 * sum(map(nbytes, inputs)) > stored

    def _hold_what_trains(self, proto: ModelProto) -> None:
        """training_info refers to values of the main graph by name."""
        names: set[str] = set()
        for info in proto.training_info:
            for graph in (info.initialization, info.algorithm):
                names |= {name for node in graph.node for name in node.input}
            for binding in (*info.initialization_binding, *info.update_binding):
                names |= {binding.key, binding.value}
        if names:
            made = [value for node in self.graph.nodes for value in node.outputs if value]
            for value in (*self.graph.initializers, *made):
                value.held |= value.name in names

    def graphs(self) -> Iterator[Graph]:
        """The main graph and all bodies in it, outer ones first; functions are not among them."""
        return self.graph.walk()

    def nodes(self) -> Iterator[Node]:
        """All nodes outside functions, graph by graph, in the order of the file."""
        for graph in self.graphs():
            yield from graph.nodes

    def opset(self, domain: str = "") -> int:
        """Version of an operator set; 0 if the model does not import it."""
        for entry in self.shell.opset_import:
            if entry.domain == domain or {entry.domain, domain} <= set(DEFAULT_DOMAINS):
                return int(entry.version)
        return 0

    @property
    def ir_version(self) -> int:
        """Version of the file format."""
        return int(self.shell.ir_version)

    def is_overridable(self, value: Value) -> bool:
        """Whether a caller may replace an initializer: it is an input too, and not just listed."""
        return value.is_input and not self.listed

    def tensor(self, value: Value | None) -> Tensor | None:
        """The stored tensor of a value that never changes, else None.

        An initializer or a Constant node. Not looked through: Identity, Cast and the like.
        """
        if value is None:
            return None
        if value.tensor is not None:
            return None if self.is_overridable(value) else value.tensor
        if value.producer is not None and value.producer.op == "Constant":
            return _of_constant_node(value.producer)
        return None

    def stored(self, graph: Graph) -> Iterator[tuple[Value, Tensor]]:
        """All tensors that one graph stores, overridable ones too: initializers, Constant nodes."""
        made = [node.output for node in graph.nodes if node.op == "Constant" and node.outputs]
        for value in (*graph.initializers, *made):
            tensor = value.tensor or self.tensor(value)
            if tensor is not None:
                yield value, tensor

    def constant(self, value: Value | None) -> Array | None:
        """The numbers of a value that never changes, else None."""
        found = self.tensor(value)
        return None if found is None else tensors.to_array(found, self.storage)

    def inputs(self) -> list[Value]:
        """What a caller must give."""
        return [value for value, _ in self.graph.inputs if value.tensor is None]

    def outputs(self) -> list[Value]:
        """What the model gives."""
        return [value for value, _ in self.graph.outputs]

    def interface(self) -> list[tuple[str, bytes]]:
        """Names and types of required inputs and of outputs, to be compared."""
        given = [(v, i) for v, i in self.graph.inputs if v.tensor is None or self.is_overridable(v)]
        return [
            (value.name, info.type.SerializeToString(deterministic=True) if info else b"")
            for value, info in (*given, *self.graph.outputs)
        ]

    def skeleton(self) -> ModelProto:
        """The model as a proto with the data of large tensors left out."""
        return skeleton(self.shell, self.graph, self.functions)


def _of_constant_node(node: Node) -> Tensor | None:
    for name in ("value", "sparse_value"):
        found = node.attribute(name)
        if isinstance(found, TensorProto | SparseTensorProto):
            return found
    for name, dtype in (("value_int", np.int64), ("value_float", np.float32)):
        for key in (name, f"{name}s"):
            found = node.attribute(key)
            if found is not None:
                return numpy_helper.from_array(np.asarray(found, dtype))
    for attribute in node.proto.attribute:  # as bytes: text may be in any encoding
        if attribute.name == "value_string":
            return helper.make_tensor("", TensorProto.STRING, [], [attribute.s])
        if attribute.name == "value_strings":
            texts = list(attribute.strings)
            return helper.make_tensor("", TensorProto.STRING, [len(texts)], texts)
    return None
