"""Inputs, outputs and value_info of a gs graph: what was said of each, if it still holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import ValueInfoProto
from onnx_graphsurgeon import Variable

from onnx_compress.ir.graph.elements import Tensor, dims, element_type
from onnx_compress.ir.graph.gs import types as gs_types
from onnx_compress.ir.graph.gs.match import Match
from onnx_compress.ir.graph.gs.scopes import Scope
from onnx_compress.ir.graph.gs.types import Type
from onnx_compress.ir.graph.view import Value

_Entries = dict[str, tuple[Value, ValueInfoProto | None]]


def inputs(match: Match, scope: Scope, weights: Mapping[Value, Tensor]) -> list[ValueInfoProto]:
    """The inputs, and behind those they followed the ones with a default, unknown to gs.

    `weights`: the tensors of the original that are still there, as they are now.
    """
    old = scope.origin.inputs if scope.origin is not None else []
    given = {tensor.name for tensor in scope.graph.inputs}
    after: dict[str, list[ValueInfoProto]] = {"": []}
    behind = ""
    for value, info in old:
        name = match.names.get(value, "")
        if name in given:
            behind = name
        elif value.tensor is not None and value in weights:
            type_, known = _stored(weights[value]), info or value.info
            same = type_ == _stored(value.tensor)
            new = _named(known, name) if same else gs_types.info_of(name, type_, known)
            after.setdefault(behind, []).append(new)
    out, entries = after[""], _by_name(old)
    for tensor in scope.graph.inputs:
        out += [_entry(match, tensor, entries), *after.get(tensor.name, [])]
    return out


def _stored(tensor: Tensor) -> Type:
    return Type(element_type(tensor), dims(tensor))


def outputs(match: Match, scope: Scope) -> list[ValueInfoProto]:
    """The outputs."""
    old = _by_name(scope.origin.outputs) if scope.origin is not None else {}
    return [_entry(match, tensor, old) for tensor in scope.graph.outputs]


def others(match: Match, scope: Scope) -> Iterator[ValueInfoProto]:
    """The value_info: what there was, of what is still there, then what the script says."""
    said = {tensor.name for tensor in (*scope.graph.inputs, *scope.graph.outputs)}
    types = match.origins.types
    for value, info in scope.origin.value_info if scope.origin is not None else ():
        name = match.names.get(value)
        if name is None:
            continue
        said.add(name)
        tensor = scope.local.get(name) or scope.constants.get(name)
        if tensor is None or value not in types or gs_types.of(tensor).like(types[value]):
            yield _named(info, name)
        elif gs_types.of(tensor).element is not None:  # else the script took the type away
            yield gs_types.info_of(name, gs_types.of(tensor), info)
    for name, tensor in scope.local.items():
        if name in said or not isinstance(tensor, Variable):
            continue
        now, known = gs_types.of(tensor), match.origin(tensor, scope)
        if now.element is not None and not (known and now.like(types[known])):
            yield gs_types.info_of(name, now)


def _by_name(entries: list[tuple[Value, ValueInfoProto | None]]) -> _Entries:
    return {entry[0].name: entry for entry in entries}


def _entry(match: Match, tensor: Any, old: _Entries) -> ValueInfoProto:
    """An input or output: what was said of that of its name, or of the tensor it came from."""
    known, now = match.origins.value(tensor), gs_types.of(tensor)
    value, info = old.get(tensor.name) or old.get(known.name if known else "") or (None, None)
    if value is None:
        return gs_types.info_of(tensor.name, now)
    if now.like(match.origins.types[value]):
        return _named(info or value.info, tensor.name)
    return gs_types.info_of(tensor.name, now, info or value.info)


def _named(info: ValueInfoProto | None, name: str) -> ValueInfoProto:
    out = ValueInfoProto()
    if info is not None:
        out.CopyFrom(info)
    if out.name != name:
        out.name = name
    return out
