"""gs to ONNX: the skeleton of a model, each part of it the proto it came from where it can be.

Models and functions have more in them than gs holds: documentation, metadata, versions, overloads.
That is put back here; for graphs, see `gs_graphs`.
"""

from typing import Any

from onnx import FunctionProto, ModelProto, OperatorSetIdProto

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.document import DEFAULT_DOMAINS
from onnx_compress.ir.graph.export import add_function
from onnx_compress.ir.graph.gs import attributes as gs_attributes
from onnx_compress.ir.graph.gs.graphs import GraphWriter, about
from onnx_compress.ir.graph.gs.match import Match
from onnx_compress.ir.graph.gs.scopes import Scope
from onnx_compress.ir.graph.model import Model

_UNVERSIONED = 11  # the opset of a gs.Graph whose maker gave none


def write_model(match: Match, writer: GraphWriter, model: Model | None = None) -> ModelProto:
    """The whole model; `model` is the original."""
    out = ModelProto()
    domains: set[str] = set()
    if model is not None:
        out.CopyFrom(model.shell)
        domains = {node.proto.domain for node in model.nodes()}
    graph = match.main.graph
    for key in ("producer_name", "producer_version", "ir_version"):
        said = getattr(graph, key)
        if said and said != getattr(out, key):  # `Graph.copy` forgets the producer
            setattr(out, key, said)
    used = {node.domain or "" for scope in match.main.walk() for node, _ in scope.nodes}
    _imports(graph, used - domains, out.opset_import)
    out.graph.SetInParent()
    writer.graph(match.main, out.graph)
    for scope in match.functions:
        _function(scope, writer, out.functions.add())
    for function in match.restored:
        add_function(function, out)
    if model is not None:
        _check_training(model, match)
    return out


def _imports(graph: Any, used: set[str], out: Any) -> None:
    """Versions of operator sets: those that the script gives, or else those there were.

    A script that makes a gs.Graph and gives no opset does not mean the default of gs.
    """
    before = {entry.domain: entry for entry in out}
    default = next((domain for domain in before if domain in DEFAULT_DOMAINS), "")
    versions: dict[str, int] = {}
    for said in graph.import_domains or ():
        alias = said.domain in DEFAULT_DOMAINS and said.domain not in before
        versions[default if alias else said.domain] = int(said.version)
    if graph.import_domains is None and (not before or graph.opset != _UNVERSIONED):
        versions[default] = int(graph.opset)
    for domain in used - {*before, *versions}:
        if domain not in DEFAULT_DOMAINS or not {*before, *versions} & set(DEFAULT_DOMAINS):
            versions[domain] = graph.opset if domain in DEFAULT_DOMAINS else 1
    for domain, entry in before.items():
        version = versions.pop(domain, None)
        if version is not None and version != entry.version:
            entry.version = version
    out.extend(OperatorSetIdProto(domain=d, version=v) for d, v in sorted(versions.items()))


def _function(scope: Scope, writer: GraphWriter, out: FunctionProto) -> None:
    function, origin = scope.graph, scope.origin
    if origin is not None:
        out.CopyFrom(origin.proto)
    about(scope, out, writer.match.origins)
    if out.domain != function.domain:
        out.domain = function.domain
    defaults = {key: value for key, value in function.attrs.items() if value is not None}
    required = [key for key in function.attrs if key not in defaults]
    old = {attribute.name: attribute for attribute in out.attribute_proto}
    new = [gs_attributes.write(k, v, old.get(k), writer.storage) for k, v in defaults.items()]
    del out.attribute[:], out.attribute_proto[:]
    out.attribute.extend(required)
    out.attribute_proto.extend(new)
    if origin is None or out.opset_import:  # without any, it uses those of the model
        known = {node.proto.domain for node in origin.nodes} if origin is not None else set()
        used = {node.domain or "" for inner in scope.walk() for node, _ in inner.nodes}
        _imports(function, used - known, out.opset_import)
    writer.function(scope, out)


def _check_training(model: Model, match: Match) -> None:
    """What training_info refers to by name must still be there by that name."""
    if not model.shell.training_info:
        return
    made = [value for node in model.graph.nodes for value in node.outputs if value is not None]
    for value in (*model.graph.initializers, *made):
        if value.held and match.names.get(value) != value.name:
            hint = "leave it as it is, or take training_info out of the model first"
            raise InvalidError("training_info refers to it by name", hint, value.name)
