"""Models of onnx's own tests: written again, cleaned up and rearranged, they give the same bits."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph import Graph, Model, Value, from_proto, load, save, to_bytes, to_proto
from onnx_compress.ir.graph.inference import infer
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.runtime import Session
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.samples import draw

from backend_models import BYTES, Case, cases, feed, nodes, outputs, ports, same, sample, session


def _values(graph: Graph) -> Iterator[Value]:
    made = (value for node in graph.nodes for value in node.outputs if value is not None)
    yield from dict.fromkeys((*(value for value, _ in graph.inputs), *graph.initializers, *made))


def _everywhere(model: Model) -> list[Graph]:
    return [*model.graphs(), *(graph for root in model.functions for graph in root.walk())]


def _fold(model: Model) -> None:
    Fold().run(model, Context(targets.host(), {}))


def _rename(model: Model, step: int = 1) -> None:
    """All values but what goes in and out of the model; or every so many of them."""
    interface = {value for value, _ in (*model.graph.inputs, *model.graph.outputs)}
    values = [value for graph in _everywhere(model) for value in _values(graph)]
    for number, value in enumerate(values[::step]):
        if value not in interface:
            model.rename(value, f"renamed {number}")


def _insert_identities(model: Model) -> None:
    """One in front of every input of a node that takes a tensor.

    Not of float16: the runtime computes chains of those in float32 and rounds where an Identity
    stands. Nor of constants beside a Scan, which must have shapes that can be inferred.
    """
    types = infer(model)
    shapes = any(node.op == "Scan" for node in model.nodes())
    if not model.opset():
        model.set_opset("", 13)
    for node in list(model.nodes()):
        for slot, value in enumerate(node.inputs):
            known = types.get(value) if value is not None else None
            if known is None or known.element in {*BYTES, TensorProto.FLOAT16}:
                continue
            if not (shapes and model.tensor(value) is not None):
                model.set_input(node, slot, model.add_node(node.graph, "Identity", [value]))


def _reverse(model: Model) -> None:
    for graph in _everywhere(model):
        graph.nodes = dict.fromkeys(reversed(graph.nodes))


def _set_constants(model: Model) -> None:
    """Every weight is replaced by an equal one."""
    for graph in _everywhere(model):
        for value in _values(graph):
            if model.tensor(value) is not None:
                model.set_constant(value, model.constant(value).copy())


def _insert_and_fold(model: Model) -> None:
    _insert_identities(model)
    _fold(model)


# what is done to a model -> (the function, whether the runtime may optimize what comes out)
WAYS: dict[str, tuple[Callable[[Model], None], bool]] = {
    "written": (lambda model: None, True),
    "folded": (_fold, True),
    "renamed": (_rename, False),
    "renamed in part": (lambda model: _rename(model, 2), False),
    "with identities": (_insert_identities, False),
    "with identities, folded": (_insert_and_fold, True),
    "reversed": (_reverse, False),
    "with other constants": (_set_constants, False),
    "read reversed": (lambda model: None, False),
}


def reversed_proto(proto: ModelProto) -> ModelProto:
    """A copy in which the nodes of all graphs stand in reverse order."""
    out = ModelProto()
    out.CopyFrom(proto)
    attributes = [attribute for node in nodes(out.graph) for attribute in node.attribute]
    bodies = [body for a in attributes for body in (a.g, *a.graphs) if body.node]
    for graph in (out.graph, *bodies, *out.functions):
        graph.node.reverse()
    return out


def _unequal(proto: ModelProto, folder: Path) -> str:
    if to_proto(from_proto(proto)) != proto:
        return "another proto"
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(proto.SerializeToString())
    save(load(source), target)
    return "" if onnx.load(target) == proto else "another file"


def _drawn(proto: ModelProto) -> dict[str, Any]:
    model = from_proto(proto)
    return dict(draw(model, Session(model), 1, 0)[0])


def _faults(case: Case, folder: Path, counts: Counter[str]) -> Iterator[str]:
    counts["models"] += 1
    try:
        unequal = _unequal(case.proto, folder)
    except Exception as error:
        unequal = repr(error)
    counts["equal"] += not unequal
    if unequal:
        yield f"{case.name}: {unequal}"
    try:
        loaded = {way: session(case.proto.SerializeToString(), way) for way in (True, False)}
    except Exception:
        return
    counts["loaded"] += 1
    try:
        given = _drawn(case.proto) if case.given is None else feed(case)
        expected = {way: outputs(loaded[way], given) for way in loaded}
    except Exception:  # the runtime's own limits: this loads and does not run
        return
    counts["run"] += 1
    faults: list[str] = []
    for name, (change, optimize) in WAYS.items():
        proto = reversed_proto(case.proto) if name == "read reversed" else case.proto
        try:
            model = from_proto(proto)
            change(model)
            check(model)
            data = to_bytes(model)
            counts[name] += data != case.proto.SerializeToString(deterministic=True)
            again = session(data, optimize)
            if ports(again) != ports(loaded[optimize]):
                faults.append(f"{case.name} {name}: another interface {ports(again)}")
            elif not same(outputs(again, given), expected[optimize], case.random):
                faults.append(f"{case.name} {name}: other outputs")
        except Exception as error:
            faults.append(f"{case.name} {name}: {error!r:.400}")
    counts["identical"] += not faults
    yield from faults


def _check(chosen: Iterable[Case], folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    faults = [fault for case in chosen for fault in _faults(case, folder, counts)]
    assert not faults, f"{counts}\n" + "\n".join(faults)
    assert counts["loaded"] > 0.6 * counts["models"]
    assert counts["run"] > 0.98 * counts["loaded"]
    assert all(counts[name] for name in WAYS if name != "written")  # something was changed
    return counts


@pytest.fixture(autouse=True)
def _quick_disks(monkeypatch):
    """Thousands of files are written; none needs to be there after a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_models_of_every_operator_keep_their_form_and_their_outputs(tmp_path):
    _check(sample(), tmp_path)


@pytest.mark.slow
def test_all_models_keep_their_form_and_their_outputs(tmp_path, capsys):
    counts = _check(cases(), tmp_path)
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(counts)}\n")
