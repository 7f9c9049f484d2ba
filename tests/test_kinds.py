"""The kinds of model that are taken: paths, protos, graphs of graphsurgeon, our own."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnx_compress.ir.errors import LoadError, UnsupportedError
from onnx_compress.ir.graph import kinds
from onnx_compress.ir.graph.gs import from_gs, to_gs
from onnx_compress.ir.graph.invariants import check

from graphs import WIDE, product, run, weight


def test_each_kind_of_model_is_read_and_given_back_as_it_came(tmp_path):
    model = product()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    view, source = kinds.read(path)
    assert source == path
    assert kinds.like(str(path), view, None) == model
    assert kinds.like(path, view, tmp_path / "out") == tmp_path / "out"
    view, source = kinds.read(model)
    assert source is None
    assert kinds.like(model, view, None) == model
    copy, _ = kinds.read(view)
    assert copy is not view
    assert kinds.like(view, copy, None) is copy
    with pytest.raises(LoadError, match="list"):
        kinds.read([model])


def test_graphsurgeon_graphs_go_in_and_out_unchanged():
    graph = gs.import_onnx(product())
    names = [node.op for node in graph.nodes], list(graph.tensors())
    view, source = kinds.read(graph)
    assert source is None
    check(view)
    w = next(value for value in view.graph.initializers if value.name == "w")
    view.set_constant(w, weight(9))
    out = kinds.like(graph, view, None)
    assert isinstance(out, gs.Graph)
    assert ([node.op for node in graph.nodes], list(graph.tensors())) == names
    np.testing.assert_array_equal(graph.tensors()["w"].values, weight(0))
    np.testing.assert_array_equal(out.tensors()["w"].values, weight(9))
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(from_gs(out), x=x), run(view, x=x))
    np.testing.assert_array_equal(run(from_gs(to_gs(view)), x=x), run(view, x=x))


def test_graphs_that_graphsurgeon_cannot_write_are_refused_in_words():
    x = gs.Variable("x", np.float32, [1])
    y = gs.Variable("y", np.float32, [1])
    node = gs.Node("Relu", inputs=[x], outputs=[y], attrs={"bad": object()})
    with pytest.raises(UnsupportedError):
        from_gs(gs.Graph([node], [x], [y]))
