"""Through graphsurgeon and back: large models, deep ones, and all of onnx's own tests, counted."""

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto
from onnx.parser import parse_model
from test_graphsurgeon_lossless import NOTHING, through

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import files, from_proto, load, save, to_proto
from onnx_compress.ir.graph.gs import Trip, from_gs, to_gs
from onnx_compress.ir.graph.gs.stored import Stored

from backend_models import Case, cases, sample
from graphs import BRANCHES, HEAD, LOOP, product, run, weight


def _told(graph: gs.Graph) -> Any:
    """All that a script can see of a graph, but for what gs does not import."""

    def told(value: Any) -> Any:
        if isinstance(value, gs.Graph):
            return _told(value)
        if isinstance(value, gs.Constant):
            return value.name, value.dtype, list(value.shape), value._values.nbytes
        if isinstance(value, gs.Variable):
            return value.name, value.dtype, value.type, value.shape and list(value.shape)
        return str(value)

    about = graph.name, graph.doc_string, graph.opset, str(graph.import_domains), graph.ir_version
    nodes = [
        (node.op, node.name, node.domain, [told(t) for t in (*node.inputs, *node.outputs)],
         [(key, told(value)) for key, value in node.attrs.items()
          if "value_float" not in key and not hasattr(value, "ByteSize")])
        for node in graph.nodes
    ]  # fmt: skip
    functions = [] if isinstance(graph, gs.Function) else [_told(f) for f in graph.functions]
    return about, [told(t) for t in (*graph.inputs, *graph.outputs)], nodes, functions


def _faults(case: Case, counts: Counter[str]) -> Iterator[str]:
    counts["models"] += 1
    copy = ModelProto()
    copy.CopyFrom(case.proto)
    theirs = gs.import_onnx(copy)
    if _told(theirs) != _told(to_gs(from_proto(case.proto))):
        yield f"{case.name}: a script sees another graph"
    for name, script in NOTHING.items():
        try:
            equal = through(case.proto, script) == case.proto
        except UnboundLocalError:  # gs cannot write optional values
            assert name == "written and read"
            counts["gs fails"] += 1
            continue
        counts[name] += equal
        if not equal:
            yield f"{case.name} {name}: another proto"


def _check(chosen: Iterable[Case]) -> Counter[str]:
    counts: Counter[str] = Counter()
    with contextlib.redirect_stdout(io.StringIO()):  # the scripts call gs, which prints
        faults = [fault for case in chosen for fault in _faults(case, counts)]
    assert not faults, f"{counts}\n" + "\n".join(faults)
    assert all(counts[name] + counts["gs fails"] >= counts["models"] for name in NOTHING)
    return counts


def test_models_of_every_operator_come_back_equal():
    assert _check(sample())["models"] > 100


@pytest.mark.slow
def test_all_models_come_back_equal(capsys):
    counts = _check(cases())
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(counts)}\n")


# ------------------------------------------------------------------------------ large and deep


def test_weights_are_not_read_unless_a_script_does(tmp_path, monkeypatch):
    save(from_proto(product()), tmp_path / "m.onnx", external=True)
    model = load(tmp_path / "m.onnx")
    shells = [value.tensor for value in model.graph.initializers]
    trip = Trip(model)
    trip.graph.tensors()["w"].values = weight(7)
    monkeypatch.setattr(Stored, "load", lambda self: pytest.fail("it was read"))
    after, changes = trip.back(trip.graph.copy())
    assert (changes.weights_replaced, changes.nodes_changed) == (("w",), ())
    assert [value.tensor for value in after.graph.initializers][1] == shells[1]
    assert after.storage is model.storage
    assert to_proto(after) == product(w=weight(7))


def test_deep_graphs_are_sorted_without_recursion():
    text = "".join(f" h{n + 1} = Neg(h{n})" for n in range(3000))
    model = parse_model(f"{HEAD} g (float[2] h0) => (float[2] h3000) {{{text} }}")
    assert through(model) == model
    out = through(model, lambda graph: graph.nodes.reverse())
    assert sorted(n.output[0] for n in out.graph.node) == sorted(
        n.output[0] for n in model.graph.node
    )
    nested = "r = Neg(x)"
    for depth in range(20):
        nested = f"r = If (c) <t = b{depth} () => (float[2] r) {{ {nested} }}>"
    deep = parse_model(f"{HEAD} g (bool c, float[2] x) => (float[2] r) {{ {nested} }}")
    assert through(deep, NOTHING["copied"]) == deep


@pytest.mark.parametrize("text", [BRANCHES, LOOP])
def test_graphs_without_an_original_are_written_as_they_run(text):
    model = parse_model(HEAD + text)
    feed = {"x": np.float32([1, -2]), "n": np.int64(3), "c": np.bool_(False)}
    feed = {info.name: feed[info.name] for info in model.graph.input}
    for graph in (gs.import_onnx(model), to_gs(from_proto(model))):
        for ours, theirs in zip(run(from_gs(graph), **feed), run(model, **feed), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_graph_is_refused_in_words():
    trip = Trip(from_proto(product()))
    with pytest.raises(UnsupportedError, match=r"gs\.Graph or None, not int"):
        trip.back(3)
    assert files.file_size(trip.model) == len(product().SerializeToString())
