"""Models on their way through graphsurgeon and back: nothing that it does not know is lost."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.parser import parse_model
from test_probes import NEWER, PLACES, PROBES, probed

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.graph.gs import Trip, from_gs
from onnx_compress.ir.graph.invariants import check

from graphs import HEAD, everything, weight

Script = Callable[[Any], Any]


def through(proto: ModelProto, script: Script = lambda graph: None) -> ModelProto:
    """What comes back when a script ran on a model."""
    trip = Trip(from_proto(proto))
    after, changes = trip.back(script(trip.graph) or trip.graph)
    check(after)
    assert changes.any == (to_proto(after) != proto)
    return to_proto(after)


def bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """A graph, its functions, and all bodies."""
    todo = [graph, *graph.functions]
    while todo:
        graph = todo.pop(0)
        yield graph
        for node in graph.nodes:
            for value in node.attrs.values():
                todo += [v for v in (value if isinstance(value, list) else [value])
                         if isinstance(v, gs.Graph)]  # fmt: skip


def constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    for body in bodies(graph):
        known = [*body.tensors().values(), *(a for n in body.nodes for a in n.attrs.values())]
        yield from (tensor for tensor in known if isinstance(tensor, gs.Constant))


def touch(graph: gs.Graph) -> None:
    """Every number is read."""
    for constant in constants(graph):
        assert constant.values is not None


def copied_nodes(graph: gs.Graph) -> None:
    graph.nodes = [node.copy(list(node.inputs), list(node.outputs)) for node in graph.nodes]


# scripts that change nothing: what they return is the same model in other objects
NOTHING: dict[str, Script] = {
    "left alone": lambda graph: None,
    "read": touch,
    "copied": lambda graph: graph.copy(),
    "made anew": lambda graph: gs.Graph(graph.nodes, graph.inputs, graph.outputs),
    "made of copies": copied_nodes,
    "written and read": lambda graph: gs.import_onnx(gs.export_onnx(graph)),
}


def no_identity(graph: gs.Graph) -> None:
    node = next(n for n in graph.nodes if n.op == "Identity" and n.outputs[0].outputs)
    reader = node.o()
    slot = next(at for at, t in enumerate(reader.inputs) if t is node.outputs[0])
    reader.inputs[slot] = node.inputs[0]
    node.outputs.clear()
    graph.cleanup()


# ------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize("script", [*NOTHING.values(), no_identity], ids=[*NOTHING, "edited"])
@pytest.mark.parametrize("probe", PROBES)
def test_what_a_model_says_of_itself_is_still_there(probe, script):
    look = PROBES[probe]
    out = through(probed(), script)
    assert look(out) == look(probed())
    assert (out == probed()) == (script is not no_identity)


def _renamed(graph: gs.Graph) -> None:
    for body in bodies(graph):
        inner = {name for name, t in body.tensors().items() if name not in ("sparse", "")}
        for name in inner - {t.name for t in (*graph.inputs, *graph.outputs)}:
            tensor = body.tensors().get(name)
            if isinstance(tensor, gs.Variable):
                tensor.name = f"{name}_renamed"


@pytest.mark.parametrize("place", PLACES)
def test_fields_of_newer_formats_survive(place):
    model = everything()
    large = numpy_helper.from_array(weight())
    model.graph.node.insert(0, helper.make_node("Constant", [], ["large too"], value=large))
    PLACES[place](model).MergeFromString(NEWER)
    for name in ("left alone", "read", "copied"):
        assert through(model, NOTHING[name]) == model
    assert NEWER in PLACES[place](through(model, _renamed)).SerializeToString()


def test_notes_and_types_follow_a_tensor_that_is_renamed():
    def script(graph: gs.Graph) -> None:
        graph.tensors()["a"].name = "other"

    out = through(probed(), script)
    assert [note.tensor_name for note in out.graph.quantization_annotation] == ["other"]
    (info,) = (info for info in out.graph.value_info if info.name == "other")
    assert info.doc_string == "activation doc"
    assert out.graph.input == probed().graph.input


# ------------------------------------------------------------------- what graphsurgeon drops


def odd() -> ModelProto:
    """A node with an attribute of every kind, and what gs cannot hold of each."""
    model = parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "c" : 1]> '
        "g (float[64,64] x, float[1] s) => (float[64,64] y) { h = Neg(x)  y = c.Odd(h) }"
    )
    tensor = numpy_helper.from_array(weight(), "t")
    kind = helper.make_tensor_type_proto(1, ["N"])
    sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[2])
    body = parse_model(HEAD + "b () => (float[64,64] r) { r = Relu(h) }").graph
    values = {
        "f": float("nan"), "i": -3, "s": b"\xff not utf-8", "t": tensor, "tp": kind,
        "floats": [0.1, -0.0], "ints": [2**62], "strings": [b"", b"\x80"], "tensors": [tensor] * 2,
        "type_protos": [kind], "sparse": sparse, "sparses": [sparse], "graphs": [body, body],
    }  # fmt: skip
    attributes = model.graph.node[1].attribute
    attributes.extend(helper.make_attribute(key, value) for key, value in values.items())
    for name in ("FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS"):
        attributes.add(name=f"no {name}", type=getattr(AttributeProto, name), doc_string="doc")
    attributes.add(name="of a newer format", type=AttributeProto.UNDEFINED, i=3)
    return model


@pytest.mark.parametrize("name", [name for name in NOTHING if name != "written and read"])
def test_attributes_of_all_kinds_come_back(name, capsys):
    assert through(odd(), NOTHING[name]) == odd()
    assert capsys.readouterr().out == ""


def test_attributes_come_back_where_the_node_is_still_there():
    def script(graph: gs.Graph) -> None:
        node = graph.nodes[1]
        assert isinstance(node.attrs["tp"], TypeProto)
        node.attrs.update({"i": 4, "ints": [], "s": "text", "new": [1.5], "to": np.float32})
        graph.tensors()["h"].name = "renamed"

    new = {a.name: a for a in through(odd(), script).graph.node[1].attribute}
    old = {a.name: a for a in odd().graph.node[1].attribute}
    assert (new["i"].i, new["s"].s, list(new["new"].floats)) == (4, b"text", [1.5])
    assert (new["ints"].type, list(new["ints"].ints)) == (AttributeProto.INTS, [])
    for body in (*new["graphs"].graphs, *old["graphs"].graphs):
        body.node[0].input[0] = "h"  # a body knew it by its name
    for key in old.keys() - {"i", "s", "ints"}:
        assert new[key].SerializeToString() == old[key].SerializeToString()


FUNCTIONS = """<ir_version: 11, opset_import: ["" : 21, "l" : 1]>
    g (float[2] x) => (float[2] y) { h = l.f:up<k=1.0>(x)  i = Identity(h)  y = l.f:down(i) }
    <domain: "l", overload: "up", opset_import: ["" : 21]>
    f <k> (p) => (q) { c = Constant<value_float: float = @k>()  q = Mul(p, c) }
    <domain: "l", overload: "down", opset_import: ["" : 21, "m" : 1]>
    f (p) => (q) { n = m.h(p)  q = Neg(n) }
    <domain: "m", opset_import: ["" : 21]> h <a: int = 3> (p) => (q) { q = Ceil(p) }"""


@pytest.mark.parametrize("script", [*NOTHING.values(), no_identity], ids=[*NOTHING, "edited"])
def test_functions_keep_overloads_and_what_they_say(script):
    model = parse_model(FUNCTIONS)
    for function in model.functions:
        function.metadata_props.add(key="of", value=function.overload)
        function.value_info.add(name="p", doc_string="doc")
    out = through(model, script)
    assert out.functions == model.functions
    calls = [node.overload for node in out.graph.node if node.domain == "l"]
    assert calls == ["up", "down"]


# a default that callers may override, in front of and behind what they must give
DEFAULTS = """g (float[2] k, float[2] x, float[2] l, float[2] u) => (float[2] y)
    <float[2] k = {1, 2}, float[2] l = {3, 4}, float[2] u = {5, 6}, float[2] unread = {7, 8}>
    { i = Identity(x)  m = Add(k, l)  y = Mul(m, i) }"""


@pytest.mark.parametrize("script", [*NOTHING.values(), no_identity], ids=[*NOTHING, "edited"])
@pytest.mark.parametrize("ir_version", [3, 8])
def test_inputs_with_a_default_come_back_in_their_places(script, ir_version):
    model = parse_model(f'<ir_version: {ir_version}, opset_import: ["" : 8]> {DEFAULTS}')
    if ir_version < 4:
        model.graph.input.append(model.graph.input[0])
        model.graph.input[-1].name = "unread"
    out = through(model, script)
    assert out.graph.input == model.graph.input
    assert out.graph.initializer == model.graph.initializer


SHARED = """g (float[64,64] x, bool c) => (float[64,64] y) {
    i = Identity(x)
    h = MatMul(i, w)
    y = If (c) <then_branch = t () => (float[64,64] r) { q = MatMul(h, w)  r = Mul(q, v) },
                else_branch = e () => (float[64,64] r) { r = Mul(h, w) }>
}"""


@pytest.mark.parametrize("script", [*NOTHING.values(), no_identity], ids=[*NOTHING, "edited"])
def test_weights_of_branches_are_written_once_where_they_were(script):
    model = parse_model(HEAD + SHARED)
    for name in "vw":
        model.graph.initializer.append(numpy_helper.from_array(weight(ord(name)), name))
    out = through(model, script)
    assert out.graph.initializer == model.graph.initializer
    assert len(out.SerializeToString()) <= len(model.SerializeToString())
    without = to_proto(from_gs(gs.import_onnx(model))).SerializeToString()  # an original
    assert [without.count(weight(ord(name)).tobytes()) for name in "vw"] == [1, 1]


LOW = """INT4 UINT4 INT2 UINT2 FLOAT4E2M1 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ
    FLOAT8E8M0 BFLOAT16 STRING SPARSE""".split()


@pytest.mark.parametrize("copies", [1, 64])  # stays in the proto, or is kept elsewhere
@pytest.mark.parametrize("element", [e for e in LOW if e == "SPARSE" or hasattr(TensorProto, e)])
def test_numbers_of_every_type_are_read_and_edited(element, copies):
    kind = getattr(TensorProto, element, 0)
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "BFLOAT16": 16}
    count = 256 * copies * 8 // bits.get(element, 8)
    model = parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Foo(x, k) }")
    if element == "SPARSE":
        values = numpy_helper.from_array(np.float32([7, 8]), "k")  # gs reads zeros out of bytes
        indices = numpy_helper.from_array(np.int64([1, 5]))
        model.graph.sparse_initializer.add(values=values, indices=indices, dims=[count])
    elif element == "STRING":
        texts = [b"\xff", "ü".encode(), b"a"] * copies
        model.graph.initializer.append(TensorProto(name="k", data_type=8, dims=[len(texts)]))
        model.graph.initializer[0].string_data.extend(texts)
    else:
        raw = bytes(range(256)) * copies
        model.graph.initializer.add(name="k", data_type=kind, dims=[count], raw_data=raw)
    assert through(model, touch) == model

    def turn(graph: gs.Graph) -> None:
        (k,) = constants(graph)
        k.values = k.values[::-1].copy()

    turned = through(model, turn)
    assert turned != model
    if element == "SPARSE":
        assert numpy_helper.to_array(turned.graph.initializer[0]).tolist()[-6:] == [
            8,
            0,
            0,
            0,
            7,
            0,
        ]
    else:
        assert turned.graph.initializer[0].data_type == kind
        assert through(turned, turn) == model


def test_inputs_that_are_no_tensors_keep_their_types():
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
        g (map(string, float) m, seq(float[2]) s, optional(float[2]) o)
            => (float[1,3] y, float[2] z, float[2] p) {
            d = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "b", "c"]>(m)
            y = Identity(d)  at = Constant<value = int64 {1}>()
            i = Identity(s)  z = SequenceAt(i, at)  j = Identity(o)  p = OptionalGetElement(j)
        }"""
    )
    for name in NOTHING.keys() - {"written and read"}:  # gs cannot write it
        assert through(model, NOTHING[name]) == model
    assert through(model, no_identity).graph.input == model.graph.input
