"""gs graphs to ONNX: what a script left as it was, and what gs does not hold, from the original.

Put back, where the node or value is still there: documentation and metadata, annotations, types
that gs cannot say, inputs that have a default value, tensors that no node reads.
"""

from typing import Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    SparseTensorProto,
    TensorProto,
)

from onnx_compress.ir.graph.elements import Tensor
from onnx_compress.ir.graph.gs import infos as gs_infos
from onnx_compress.ir.graph.gs.lending import Origins
from onnx_compress.ir.graph.gs.match import Match
from onnx_compress.ir.graph.gs.nodes import is_as_before, label, write_node
from onnx_compress.ir.graph.gs.scopes import Scope
from onnx_compress.ir.graph.gs.stored import written
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Value

_UNNAMED = "onnx_graphsurgeon_graph"  # what gs calls a graph whose maker gave no name


class GraphWriter:
    """Writes graphs; remembers which nodes and weights are new or other than they were."""

    def __init__(self, match: Match, storage: Storage, model: Model | None = None) -> None:
        self.match, self.storage = match, storage
        self.overridable = model is not None and not model.listed
        self.trains = model is not None and bool(model.shell.training_info)
        self.added: list[str] = []
        self.changed: list[str] = []
        self.new_weights: list[str] = []
        self.weights: dict[Value, Tensor] = {}  # of the original, as they are now
        self.unread: list[str] = []  # inputs with a default that nothing reads any more

    def graph(self, scope: Scope, out: GraphProto) -> None:
        """Fill in a graph."""
        if scope.origin is not None:
            out.CopyFrom(scope.origin.proto)
        about(scope, out, self.match.origins)
        self._initializers(scope, out)
        self._nodes(scope, out)
        out.input.extend(gs_infos.inputs(self.match, scope, self.weights))
        out.output.extend(gs_infos.outputs(self.match, scope))
        out.value_info.extend(gs_infos.others(self.match, scope))
        for value, parameters, annotation in scope.origin.annotations if scope.origin else ():
            names = [self.match.names.get(v) for v in (value, *parameters)]
            if None in names:
                continue
            note = out.quantization_annotation.add()
            note.CopyFrom(annotation)
            note.tensor_name = str(names[0])
            for entry, name in zip(note.quant_parameter_tensor_names, names[1:], strict=True):
                entry.value = str(name)

    def function(self, scope: Scope, out: FunctionProto) -> None:
        """Fill in a function, which has no initializers: constants become nodes."""
        for constant in scope.constants.values():
            node = out.node.add(op_type="Constant", output=[constant.name])
            value = self._weight(constant, scope)
            if isinstance(value, SparseTensorProto):
                kind = AttributeProto.SPARSE_TENSOR
                node.attribute.add(name="sparse_value", type=kind, sparse_tensor=value)
            else:
                node.attribute.add(name="value", type=AttributeProto.TENSOR, t=value)
        self._nodes(scope, out)
        out.input.extend(tensor.name for tensor in scope.graph.inputs)
        out.output.extend(tensor.name for tensor in scope.graph.outputs)
        out.value_info.extend(gs_infos.others(self.match, scope))

    # -------------------------------------------------------------------------------- weights

    def _weight(self, constant: Any, scope: Scope) -> Tensor:
        value = self.match.origin(constant, scope)
        old = value.tensor if value is not None else None
        tensor = written(constant, old, self.storage)
        if value is None or old is None or value in self.weights:
            self.new_weights.append(constant.name)
        else:
            self.weights[value] = tensor
        return tensor

    def _initializers(self, scope: Scope, out: GraphProto) -> None:
        old = scope.origin.initializers if scope.origin is not None else {}
        at: dict[Value, Any] = {}
        new: list[Any] = []
        for constant in scope.constants.values():
            value = self.match.origin(constant, scope)
            if value in old and at.setdefault(value, constant) is constant:
                continue
            new.append(constant)
        for value in old:
            if value in at:
                _add(at[value].name, self._weight(at[value], scope), out)
            elif value.tensor is not None and self._stays(value, scope):
                self.match.names[value] = value.name
                self.weights[value] = value.tensor
                _add(value.name, value.tensor, out)
        for constant in new:
            _add(constant.name, self._weight(constant, scope), out)

    def _stays(self, value: Value, scope: Scope) -> bool:
        """Whether a tensor that nothing reads is still wanted: most scripts never saw it."""
        if value.name in scope.local or value.name in scope.constants:
            return False  # the name is that of something else now
        if value.is_input and self.overridable:
            if value.uses or value.exits:
                self.unread.append(value.name)
            return True
        if value.held:
            notes = scope.origin.annotations if scope.origin is not None else []
            noted = any(value in parameters and v in self.match.names for v, parameters, _ in notes)
            return noted or self.trains
        return not (value.uses or value.exits)

    # ---------------------------------------------------------------------------------- nodes

    def _nodes(self, scope: Scope, out: GraphProto | FunctionProto) -> None:
        for at, (node, before) in enumerate(scope.nodes):
            proto = write_node(node, before, self.storage)
            if before is None:
                self.added.append(label(proto))
            elif not is_as_before(proto, before):
                self.changed.append(label(proto))
            written_ = out.node.add()
            written_.CopyFrom(proto)
            for attribute in written_.attribute:
                self._bodies(scope.bodies.get(at, {}).get(attribute.name, []), attribute)

    def _bodies(self, scopes: list[Scope], attribute: AttributeProto) -> None:
        single = attribute.type == AttributeProto.GRAPH
        for body in scopes:
            self.graph(body, attribute.g if single else attribute.graphs.add())


def about(scope: Scope, out: GraphProto | FunctionProto, origins: Origins) -> None:
    """Name and documentation; defaults of gs are no names given."""
    graph = scope.graph
    ours = origins.graph(graph) is not None
    if graph.name != out.name and (ours or not out.name or graph.name != _UNNAMED):
        out.name = graph.name
    if graph.doc_string != out.doc_string and (ours or graph.doc_string):
        out.doc_string = graph.doc_string


def _add(name: str, tensor: Tensor, out: GraphProto) -> None:
    if isinstance(tensor, SparseTensorProto):
        sparse = out.sparse_initializer.add()
        sparse.CopyFrom(tensor)
        sparse.values.name = name
    elif isinstance(tensor, TensorProto):
        dense = out.initializer.add()
        dense.CopyFrom(tensor)
        dense.name = name
