"""The bridge to onnx-ir, which stays at the edge: no object of onnx-ir lives inside.

Each way goes through a skeleton, a ModelProto in which large tensors are shells, by onnx-ir's own
reader and writer. What goes in and out is what they would have given, except that no weight is
copied. They do not keep

- sparse tensors, map types, and lists of strings that are not UTF-8: refused here
- training_info, and fields of a newer format than onnx-ir knows
- value_info of values that no node makes; every initializer gets one
- functions' value_info below IR version 10: they go to the main graph, as NAME::f/value
- the order of metadata_props, which is sorted, and that of value_info
- fields that are there but empty, such as a doc_string
"""

from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir
from onnx import SparseTensorProto
from onnx_ir import AttributeType

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.onnx_ir_lent import Lender
from onnx_compress.ir.graph.onnx_ir_stored import Maps, stored
from onnx_compress.ir.graph.storage import Storage


def from_onnx_ir(model: onnx_ir.Model) -> Model:
    """A model from one of onnx-ir, which is left as it is and must not be changed meanwhile.

    Weights are referred to: in their files, or in memory. The rules for files are those of
    everywhere: plain ones in the tensor's `base_dir`.
    Raises UnsupportedError, InvalidError and LoadError.
    """
    storage = Storage()
    shadow = _Shadows(Lender(storage)).model(model)  # before: its errors are not onnx-ir's
    try:
        proto = onnx_ir.serde.serialize_model(shadow)
    except Exception as error:  # it wraps whatever was raised
        hint = "give the ONNX model or its path instead"
        raise UnsupportedError(f"onnx-ir cannot write it: {_reason(error)}", hint) from error
    if not proto.graph.output:
        raise InvalidError("the graph has no outputs", "give a complete model")
    return Model(proto, None, storage)


def to_onnx_ir(model: Model) -> onnx_ir.Model:
    """A new model of onnx-ir, whose large tensors read from the storage of this one when asked.

    Raises UnsupportedError for what onnx-ir cannot hold.
    """
    hint = "ask for a ModelProto or a file instead"
    functions = (graph for function in model.functions for graph in function.walk())
    for graph in (*model.graphs(), *functions):
        for value in graph.initializers:
            if isinstance(value.tensor, SparseTensorProto):  # it would be left out, unasked
                raise UnsupportedError("onnx-ir has no sparse tensors", hint, value.name)
    try:
        out = onnx_ir.serde.deserialize_model(model.skeleton())
    except Exception as error:
        raise UnsupportedError(f"onnx-ir cannot read it: {_reason(error)}", hint) from error
    maps = Maps(model.storage)
    for found in _graphs(out):
        for initial in found.initializers.values():
            initial.const_value = _stored(initial.const_value, maps)
        for node in found:
            for attribute in list(node.attributes.values()):
                _store(node, attribute, maps)
    return out


def _graphs(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def _store(node: onnx_ir.Node, attribute: onnx_ir.Attr, maps: Maps) -> None:
    value: Any
    if attribute.is_ref():
        return
    if attribute.type == AttributeType.TENSOR:
        value = _stored(attribute.value, maps)
    elif attribute.type == AttributeType.TENSORS:
        value = [_stored(tensor, maps) for tensor in attribute.value]
    else:
        return
    name, doc = attribute.name, attribute.doc_string
    node.attributes[name] = onnx_ir.Attr(name, attribute.type, value, doc_string=doc)


def _stored(tensor: Any, maps: Maps) -> Any:
    return stored(tensor, maps) if isinstance(tensor, onnx_ir.ExternalTensor) else tensor


class _Shadow:
    """Stands for an object of onnx-ir while it is written; a few attributes are other ones."""

    def __init__(self, thing: Any, nodes: list[Any] | None = None, **instead: Any) -> None:
        self._thing, self._nodes = thing, nodes
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._thing if self._nodes is None else self._nodes)

    def __len__(self) -> int:
        return len(self._thing)


class _Shadows:
    """The model as onnx-ir's writer is to see it: with protos for tensors, large ones shells."""

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    def model(self, model: onnx_ir.Model) -> Any:
        functions = {
            key: _Shadow(function, [self._node(node) for node in function])
            for key, function in model.functions.items()
        }
        return _Shadow(model, graph=self._graph(model.graph), functions=functions)

    def _graph(self, graph: onnx_ir.Graph) -> Any:
        initial = {name: self._initializer(value) for name, value in graph.initializers.items()}
        return _Shadow(graph, [self._node(node) for node in graph], initializers=initial)

    def _initializer(self, value: onnx_ir.Value) -> Any:
        if value.const_value is None:
            hint = "set const_value, or take it out of graph.initializers"
            raise InvalidError("an initializer without numbers", hint, value.name or "")
        return _Shadow(value, const_value=self._tensor(value.const_value))

    def _node(self, node: onnx_ir.Node) -> Any:
        attributes = {name: self._attribute(item) for name, item in node.attributes.items()}
        return _Shadow(node, attributes=attributes)

    def _attribute(self, attribute: onnx_ir.Attr) -> Any:
        made: Callable[[Any], Any] | None = {
            AttributeType.TENSOR: self._tensor,
            AttributeType.TENSORS: lambda found: [self._tensor(tensor) for tensor in found],
            AttributeType.GRAPH: self._graph,
            AttributeType.GRAPHS: lambda found: [self._graph(graph) for graph in found],
        }.get(attribute.type)
        if made is None or attribute.is_ref():
            return attribute
        return _Shadow(attribute, value=made(attribute.value))

    def _tensor(self, tensor: Any) -> Any:
        # a copy each: the writer names them, and adds the metadata a second time
        proto = self._lender.proto(tensor)
        props = {entry.key: entry.value for entry in proto.metadata_props}
        bare = type(proto)()
        bare.CopyFrom(proto)
        del bare.metadata_props[:]
        out = onnx_ir.TensorProtoTensor(bare)
        out.metadata_props.update(props)
        return out


def _reason(error: BaseException) -> str:
    """What was raised at first, within what onnx-ir says of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
