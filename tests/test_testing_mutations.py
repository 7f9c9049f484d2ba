"""Mutations: models written differently keep their outputs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from onnx_compress.bench.drawn import wrong
from onnx_compress.ir.graph import from_proto, load
from onnx_compress.ir.runtime import Session
from onnx_compress.testing import (
    MUTATIONS,
    examples,
    feed_of,
    models,
)
from onnx_compress.testing.mutations import saved_externally
from onnx_compress.testing.outputs import Yardstick, compare

from models_by_text import (
    Feed,
    all_nodes,
    all_ops,
    draw,
    run,
    same_numbers_in_any_order,  # noqa: F401
)
from mutated_models import (
    DRAWN,
    everything,
    mutated,
    stored,
)

ODD = models(dtypes=("float32", "float64"), opsets=(11, 23), functions=True)
RARE = ("gemm_split", "transposed_product", "shared")  # need a Gemm, or a weight of two readers


def data(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def same(one: ModelProto, other: ModelProto, seed: int = 0) -> str:
    """What differs between two models on one feed, not optimized; "" if nothing does."""
    original = from_proto(one)
    feed = feed_of(original, "normal", 2, seed)
    yardstick = Yardstick(original, 1e-6)
    sessions = [Session(model, optimize=False) for model in (original, from_proto(other))]
    outputs = enumerate(zip(*(session.run(feed) for session in sessions), strict=True))
    found = (compare(a, b, partial(yardstick, feed, at)) for at, (a, b) in outputs)
    return "; ".join(filter(None, found))


# ------------------------------------------------------------------------------- on drawn models


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_keeps_the_outputs_and_the_interface_and_changes_the_model(name):
    done = []

    @examples(25)
    @given(DRAWN, st.integers(0, 99))
    def holds(model: ModelProto, seed: int) -> None:
        before = data(model)
        found = mutated(name, model, seed)
        assert data(model) == before
        if found is None:
            return
        done.append(found)
        assert data(found) != before
        assert list(found.graph.output) == list(model.graph.output)
        assert list(found.graph.input)[: len(model.graph.input)] == list(model.graph.input)
        assert wrong(found) == ""
        assert same(model, found, seed) == ""

    holds()
    assert done or name in RARE


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_so_it_does_in_other_operator_sets_and_types_and_with_functions(name):
    @settings(max_examples=150)
    @given(ODD, st.integers(0, 99))
    def holds(model: ModelProto, seed: int) -> None:
        before = data(model)
        found = mutated(name, model, seed)
        assert data(model) == before
        if found is not None:
            assert data(found) != before
            assert wrong(found) == ""
            assert same(model, found, seed) == ""

    holds()


@pytest.mark.parametrize("name", MUTATIONS)
def test_equal_generators_give_equal_models(name):
    model = everything()
    found = [mutated(name, model, 3) for _ in range(2)]
    assert data(found[0]) == data(found[1])


# ----------------------------------------------------------------------------- on one model of all


def readers(model: ModelProto, name: str) -> list[str]:
    return [node.op_type for node in model.graph.node if name in node.input]


def names(model: ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in (node.name, *node.input, *node.output)}


def _reordered(old: ModelProto, new: ModelProto) -> bool:
    one, other = ([n.SerializeToString() for n in m.graph.node] for m in (old, new))
    return one != other and sorted(one) == sorted(other)


def _behind(op: str) -> Callable[[ModelProto, ModelProto], bool]:
    return lambda old, new: any(op in readers(new, name) for name in stored(old))


def _turned(old: ModelProto, new: ModelProto) -> bool:
    (gemm,) = (node for node in new.graph.node if node.op_type == "Gemm")
    flips = any(a.name == "transB" and a.i == 1 for a in gemm.attribute)
    return flips and np.array_equal(stored(new)[gemm.input[1]], stored(old)["W"].T)


def _captured(old: ModelProto, new: ModelProto) -> bool:
    bodies = [a.g for n in new.graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    inner = {name for body in bodies for node in body.node for name in node.input}
    return len(bodies) == 2 and bool(inner & set(stored(old)))


DONE: dict[str, Callable[[ModelProto, ModelProto], bool]] = {
    "rename_all": lambda old, new: not names(new) & (names(old) - {"x", "y", "z"}),
    "unicode_names": lambda old, new: not any(n.isascii() for n in names(new) - {"x", "y", "z"}),
    "reorder_nodes": _reordered,
    "identity_inserted": lambda old, new: "Identity" in all_ops(new),
    "dead_nodes": lambda old, new: not readers(new, new.graph.node[-1].output[0]),
    "custom_domain_node": lambda old, new: any(n.domain for n in new.graph.node),
    "as_constant_nodes": lambda old, new: len(stored(new)) < 4 and "Constant" in all_ops(new),
    "as_inputs": lambda old, new: len(new.graph.input) == 5 and new.ir_version == 3,
    "behind_identity": _behind("Identity"),
    "behind_transpose": _behind("Transpose"),
    "behind_cast": lambda old, new: any(a.dtype == np.float64 for a in stored(new).values()),
    "shared": lambda old, new: len(stored(new)) == 5,
    "tied": lambda old, new: any("Reshape" in readers(new, name) for name in stored(old)),
    "gemm_split": lambda old, new: "Gemm" not in all_ops(new),
    "transposed_product": _turned,
    "captured_by_branch": _captured,
    "outlined_into_function": lambda old, new: len(new.functions) == 1,
    "other_opset": lambda old, new: new.opset_import[0].version > 17,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_does_what_its_name_says(name):
    model = everything()
    found = mutated(name, model)
    assert found is not None
    assert DONE[name](model, found)
    assert same(model, found) == ""


def test_every_kind_of_mutation_is_there():
    assert set(DONE) == set(MUTATIONS)


def test_tied_weights_still_belong_to_two_readers_after_the_first_is_found():
    found = mutated("tied", everything())
    assert any(len(readers(found, name)) > 1 for name in ("W", "V", "b", "s"))


def test_every_mutation_says_what_it_does():
    assert all((function.__doc__ or "").strip() for function in MUTATIONS.values())


# ------------------------------------------------------------------------------------- in files


@examples(20)
@given(models(opsets=(11, 23)))
def test_saved_externally_it_is_the_same_model(tmp_path_factory, model):
    before = data(model)
    path = saved_externally(model, tmp_path_factory.mktemp("external"))
    assert data(model) == before
    bare = onnx.load(path, load_external_data=False)
    floats = [t for t in bare.graph.initializer if t.data_type == TensorProto.FLOAT]
    outside = all(tensor.data_location == TensorProto.EXTERNAL for tensor in floats)
    assert outside or "Resize" in all_ops(model)
    onnx.checker.check_model(str(path), full_check=True)
    Session(load(path))
    whole = onnx.load(path)
    for one, other in zip(model.graph.initializer, whole.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    assert [n.name for n in all_nodes(whole.graph)] == [n.name for n in all_nodes(model.graph)]


def test_saved_externally_it_loads_in_the_runtime_and_gives_the_same_outputs(tmp_path):
    model = everything()
    path = saved_externally(model, tmp_path)
    feed: Feed = {"x": draw(2, 4)}
    for one, other in zip(run(model, feed), run(path, feed), strict=True):
        assert np.array_equal(one, other)
    assert {file.name for file in tmp_path.iterdir()} == {"model.data", "model.onnx"}
