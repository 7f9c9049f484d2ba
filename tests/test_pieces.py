"""A model run in pieces gives what it gives whole."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import (
    Session,
    activations,
    executed,
    fits,
    memory,
    observe,
    open_session,
)
from onnx_compress.ir.runtime.pieces import Pieces

from graphs import product
from heavy_models import HEAVY, LOOP, MODELS, four
from in_pieces import (
    assert_equal,
    feeds,
    in_pieces,
    whole,
)
from test_partition import drawn_models

PIECE = 16  # memory is given as this many times what a piece may take


def with_memory(size: int, proto: ModelProto, samples, **options) -> list[list]:
    with memory(size):
        return list(Pieces(from_proto(proto), **options).run_all(samples))


@pytest.mark.parametrize("limit", [1, HEAVY, 2 * HEAVY])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_whole_model_bit_for_bit(name, limit):
    proto = MODELS[name]()
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    found = in_pieces(proto, samples, limit, optimize=False)
    # the runtime does not pack a weight that a caller may replace, and then sums otherwise
    assert_equal(found, expected, 1e-5 if "overridden" in name else 0)


@pytest.mark.parametrize("size", [1, PIECE * HEAVY])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_optimized_pieces_are_close(name, size):
    proto = MODELS[name]()
    samples = feeds(proto)
    assert_equal(with_memory(size, proto, samples), whole(proto, samples), tolerance=1e-4)


@settings(max_examples=50)
@given(drawn_models(), st.sampled_from([1, 256, 600]))
def test_any_graph_gives_in_pieces_what_it_gives_whole(proto, limit):
    samples = feeds(proto, 2)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, limit, optimize=False), expected)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["residuals", "branches", "several outputs of a node"])
def test_samples_keep_their_order_whatever_the_threads(name, threads):
    proto = MODELS[name]()
    samples = feeds(proto, 7)
    assert_equal(in_pieces(proto, samples, threads=threads), in_pieces(proto, samples))


def test_one_sample_gives_what_it_gives_among_others():
    proto = MODELS["residuals"]()
    samples = feeds(proto)
    with memory(PIECE * HEAVY):
        alone = [Pieces(from_proto(proto)).run(sample) for sample in samples]
    assert_equal(alone, in_pieces(proto, samples))


def test_no_samples_give_no_outputs():
    for run in (whole, in_pieces):
        assert run(MODELS["a chain"](), []) == []


def test_it_may_be_run_again():
    proto = MODELS["residuals"]()
    (sample,) = feeds(proto, 1)
    with memory(PIECE * HEAVY):
        session = Pieces(from_proto(proto))
        assert_equal([session.run(sample)], [session.run(sample)])


def test_large_activations_wait_in_the_scratch_file(monkeypatch):
    spilled = []
    monkeypatch.setattr(activations, "_SMALL", 64)

    class Counted(activations._Spilled):
        def __init__(self, blob, dtype, shape):
            super().__init__(blob, dtype, shape)
            spilled.append(self)

    monkeypatch.setattr(activations, "_Spilled", Counted)
    for name, threads in (("residuals", 1), ("several outputs of a node", 3)):
        proto = MODELS[name]()
        samples = feeds(proto, 5)
        found = in_pieces(proto, samples, optimize=False, threads=threads)
        assert_equal(found, whole(proto, samples, optimize=False))
    assert {(each.dtype, len(each.shape)) for each in spilled} == {(np.dtype("float32"), 2)}


# ------------------------------------------------------------------------------------ what is run


def test_a_model_is_run_whole_as_long_as_it_fits(monkeypatch):
    model = from_proto(MODELS["a chain"]())
    with memory(4 * HEAVY + 8):
        assert fits(model)
        assert isinstance(open_session(model), Session)
    with memory(4 * HEAVY + 7):
        assert not fits(model)
        assert isinstance(open_session(model), Pieces)


def test_what_memory_was_given_is_forgotten_afterwards():
    model = from_proto(MODELS["a chain"]())
    with pytest.raises(KeyError), memory(1):
        raise KeyError
    assert fits(model)


def test_executed_names_the_nodes_of_all_pieces():
    proto = four("p = MatMul(x, a) q = Softmax(p) r = MatMul(q, b) y = Softmax(r)")
    for at, each in enumerate(proto.graph.node):
        each.name = f"node{at}"
    (sample,) = feeds(proto, 1)
    model = from_proto(proto)
    ran = executed(model, sample)
    assert sorted(op for op, _ in ran) == ["MatMul", "MatMul", "Softmax", "Softmax"]
    with memory(1):
        assert sorted(executed(model, sample)) == sorted(ran)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_observed_in_pieces_as_in_one(name):
    proto = MODELS[name]()
    (sample,) = feeds(proto, 1)
    model = from_proto(proto)
    nodes = [n for n in model.graph.nodes if n.op not in ("Loop", "Split", "TopK")]
    values = [*model.inputs(), *(n.output for n in nodes)]
    expected = observe(model, sample, values, ["Shape", "Size"])
    with memory(HEAVY):
        assert not fits(model)
        found = observe(model, sample, values, ["Shape", "Size"])
    assert list(found) == list(expected)
    assert_equal(list(found.values()), list(expected.values()))


def test_a_file_with_data_beside_it_is_run_in_pieces_and_loaded(tmp_path):
    proto = product()
    path = tmp_path / "m.onnx"
    onnx.save_model(product(), path, save_as_external_data=True, location="d", size_threshold=0)
    x = np.ones((2, 64), np.float32)
    expected = Session(from_proto(proto), optimize=False).run({"x": x})
    with memory(1):
        session = open_session(path, optimize=False)
        assert isinstance(session, Pieces)
        assert_equal([session.run({"x": x})], [expected])


def test_a_file_that_the_runtime_cannot_load_is_refused_though_it_is_large(tmp_path):
    proto = product()
    proto.graph.node[1].op_type = "NoSuchOperator"
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="d", size_threshold=0)
    with memory(1), pytest.raises(InvalidError, match="NoSuchOperator"):
        open_session(path)


# ------------------------------------------------------------------------------------ command line


def test_a_loop_is_one_node_of_one_piece():
    model = from_proto(four(LOOP, "float[N,32] y, float[M,N,32] all"))
    with memory(1):
        ran = executed(model, feeds(four(LOOP, "float[N,32] y, float[M,N,32] all"), 1)[0])
    assert [op for op, _ in ran].count("Loop") == 1
