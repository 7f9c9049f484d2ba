"""Mutations: each writes a model differently, really does, and keeps what the model computes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar
from zlib import crc32

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from onnx_compress.bench.drawn import wrong
from onnx_compress.ir.graph import Model, from_proto, load
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.passes import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant
from onnx_compress.testing import (
    MUTATIONS,
    Failed,
    check_mutations,
    examples,
    feed_of,
    models,
)
from onnx_compress.testing.mutated import as_good_as
from onnx_compress.testing.mutations import saved_externally
from onnx_compress.testing.outputs import Yardstick, compare

from models_by_text import (  # noqa: F401
    Feed,
    all_nodes,
    all_ops,
    build,
    draw,
    run,
    same_numbers_in_any_order,
)

DRAWN = models()
ODD = models(dtypes=("float32", "float64"), opsets=(11, 23), functions=True)
RARE = ("gemm_split", "transposed_product", "shared")  # need a Gemm, or a weight of two readers


def data(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def mutated(name: str, model: ModelProto, seed: int = 0) -> ModelProto | None:
    return MUTATIONS[name](model, np.random.default_rng(seed))


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


def everything() -> ModelProto:
    """Something for each mutation."""
    return build(
        "g (float[N,4] x) => (float[N,3] y, float[N,4] z) {"
        " a = Gemm (x, W, b)  h = MatMul (x, V)  k = Mul (h, s)  z = Add (k, s)  y = Relu (a) }",
        W=draw(4, 3),
        b=draw(3),
        V=draw(4, 4),
        s=draw(4),
    )


def stored(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


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


# --------------------------------------------------------------------------------- nothing to do


IDLE = [
    "as_constant_nodes",
    "as_inputs",
    "behind_identity",
    "behind_transpose",
    "behind_cast",
    "shared",
    "tied",
    "gemm_split",
    "transposed_product",
    "captured_by_branch",
    "reorder_nodes",
]


@pytest.mark.parametrize("name", IDLE)
def test_it_says_none_where_there_is_nothing_to_write_differently(name):
    model = build("g (float[N,4] x) => (float[N,4] y) { h = Relu (x)  y = Neg (h) }")
    assert mutated(name, model) is None


def test_a_newest_operator_set_is_not_raised():
    model = build("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=21)
    assert mutated("other_opset", model) is None


def test_a_model_with_functions_gets_no_more():
    model = mutated("outlined_into_function", everything())
    assert mutated("outlined_into_function", model) is None


def test_without_floats_to_give_out_nothing_is_added_to_them():
    text = "h = Add (x, b)  y = ArgMax <axis=1, keepdims=0>(h)"
    model = build(f"g (float[N,4] x) => (int64[N] y) {{ {text} }}", b=draw(4))
    assert mutated("tied", model) is None
    assert mutated("custom_domain_node", model) is None


def test_a_gemm_that_scales_is_not_split():
    text = "g (float[N,4] x) => (float[N,3] y) { y = Gemm <alpha=2.0>(x, W) }"
    assert mutated("gemm_split", build(text, W=draw(4, 3))) is None


def test_weights_of_bodies_cannot_be_inputs():
    model = build(
        "g (float[N,4] x, bool c) => (float[N,4] y) { y = If (c) <"
        "then_branch = t () => (float[N,4] a) <float[4] s = {1,2,3,4}> { a = Mul (x, s) },"
        "else_branch = e () => (float[N,4] b) { b = Mul (x, w) }> }",
        w=draw(4),
    )
    assert mutated("as_inputs", model) is None
    assert wrong(mutated("as_constant_nodes", model)) == ""


def test_an_only_order_is_no_other_order_and_two_are_always_found():
    line = build("g (float[2] x) => (float[2] z) { y = Relu (x)  z = Neg (y) }")
    fork = build("g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Neg (x) }")
    for seed in range(8):
        assert mutated("reorder_nodes", line, seed) is None
        found = mutated("reorder_nodes", fork, seed)
        assert [node.op_type for node in found.graph.node] == ["Neg", "Relu"]


def test_equal_nodes_are_kept_apart():
    model = build("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Relu (x)  y = Add (a, b) }")
    for seed in range(4):
        found = mutated("reorder_nodes", model, seed)
        assert wrong(found) == ""
        assert sorted(n.output[0] for n in found.graph.node) == ["a", "b", "y"]


def test_names_that_are_taken_are_not_given_again():
    text = "g (float[2] x) => (float[2] dead) { t0 = Relu (x)  dead = Add (t0, zero) }"
    model = build(text, zero=draw(2))
    for name in MUTATIONS:
        found = mutated(name, model)
        assert found is None or wrong(found) == "", name


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


# --------------------------------------------------------------------------------- check_mutations


@examples(4)
@given(DRAWN)
def test_a_pass_that_does_nothing_holds_on_all_mutations(model):
    done = check_mutations(lambda given: given, model)
    assert {"rename_all", "dead_nodes"} <= set(done) <= set(MUTATIONS)


def test_fold_and_quant_hold_on_all_mutations_of_one_model():
    for pass_ in (Fold(), Quant(bits=8)):
        assert set(check_mutations(pass_, everything())) == {*MUTATIONS, "saved_externally"}


def doubled_where_it_is_called_w(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if tensor.name == "W":
            array = (2 * numpy_helper.to_array(tensor)).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(array, "W"))
    return out


def test_a_pass_that_looks_at_names_is_caught():
    with pytest.raises(Failed, match="mutation rename_all"):
        check_mutations(doubled_where_it_is_called_w, everything())


@dataclass(frozen=True)
class InitializersAlone(Prune):
    """Does not see what is stored in Constant nodes."""

    name: ClassVar[str] = "initializers_alone"

    def run(self, model: Model, context: Context) -> Report:
        stored = [w.name for w in context.weights(model) if w.value.producer is not None]
        return super().run(model, replace(context, exclude=tuple(stored)))


def test_a_pass_that_overlooks_weights_written_in_another_way_is_caught():
    text = "g (float[N,64] x) => (float[N,64] y) { h = MatMul (x, W)  y = Relu (h) }"
    model = build(text, W=draw(64, 64))
    check_mutations(Prune(sparsity=0.5), model, ["as_constant_nodes"])
    with pytest.raises(Failed, match="as_constant_nodes: 0 changes where 1 were"):
        check_mutations(InitializersAlone(sparsity=0.5), model, ["as_constant_nodes"])


@dataclass(frozen=True)
class Noisy(Pass):
    """Weights changed at random, by as much as it says; broken, by what they are called."""

    name: ClassVar[str] = "noisy"
    named: bool = option(True, "seeds are the names of weights")

    @property
    def phase(self) -> Phase:
        return Phase.MASK

    @property
    def weight_error(self) -> float:
        return 0.1

    def run(self, model: Model, context: Context) -> Report:
        changes = []
        for weight in context.weights(model):
            array = weight.array()
            seed = crc32(weight.name.encode()) if self.named else 0
            noise = np.random.default_rng(seed).uniform(-0.05, 0.05, array.shape)
            Dense((array * (1 + noise)).astype(array.dtype)).emit(weight)
            changes.append(Entry(weight.name, "made noisy"))
        return Report(tuple(changes))


def test_a_pass_that_computes_otherwise_under_other_names_is_caught():
    """Within what it says is its error, so that the outputs do not tell."""
    check_mutations(Noisy(named=False), everything(), ["rename_all", "reorder_nodes"])
    with pytest.raises(Failed, match="mutation rename_all: other numbers are stored"):
        check_mutations(Noisy(), everything(), ["rename_all"])


@dataclass(frozen=True)
class InMemoryAlone(Prune):
    """Does not see what lies in a file."""

    name: ClassVar[str] = "in_memory_alone"

    def run(self, model: Model, context: Context) -> Report:
        found = context.weights(model)
        outside = [w.name for w in found if not model.tensor(w.value).HasField("raw_data")]
        return super().run(model, replace(context, exclude=tuple(outside)))


def test_a_pass_that_overlooks_weights_in_files_is_caught():
    text = "g (float[N,8] x) => (float[N,8] y) { h = MatMul (x, W)  y = Relu (h) }"
    model = build(text, W=draw(8, 8))
    assert check_mutations(Prune(sparsity=0.5), model, ["saved_externally"]) == ["saved_externally"]
    with pytest.raises(Failed, match="saved_externally: 0 changes where 1 were"):
        check_mutations(InMemoryAlone(sparsity=0.5), model, ["saved_externally"])


def test_a_function_is_not_run_on_files():
    assert check_mutations(lambda given: given, everything(), ["saved_externally"]) == []


@dataclass(frozen=True)
class Wordy(Noisy):
    """Says something else of every weight, by its name."""

    name: ClassVar[str] = "wordy"

    def run(self, model: Model, context: Context) -> Report:
        report = Noisy(named=False).run(model, context)
        changes = tuple(Entry(e.subject, f"{e.text}: {e.subject}") for e in report.changes)
        return replace(report, changes=changes)


def test_a_pass_that_decides_otherwise_of_the_same_weights_is_caught():
    with pytest.raises(Failed, match="mutation rename_all: made noisy: t"):
        check_mutations(Wordy(), everything(), ["rename_all"])


def test_rounding_of_what_codes_are_fitted_to_may_show_in_a_few():
    """Floats in their last bits, codes in some: as where the runtime fuses other nodes."""
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-9, 9, (32, 8)).astype(np.int8), rng.random(32).astype("f")
    few, many = codes.copy(), codes.copy()
    few[0, :3] += 1
    many[:, 0] += 1

    def counted(*arrays):
        return Counter((a.dtype.name, a.shape, a.tobytes()) for a in arrays)

    one = counted(codes, scale)
    assert as_good_as(one, counted(few, scale * np.float32(1 + 1e-6)))
    assert not as_good_as(one, counted(many, scale))
    assert not as_good_as(one, counted(codes, scale * np.float32(1.01)))
    assert not as_good_as(one, counted(codes))


def test_outputs_of_codes_with_one_scale_are_held_to_more_than_nothing():
    """A tied table has one scale, which is no weight: its twin has one for each row."""
    text = (
        "g (int64[3] i) => (float[?,?] y) "
        "{ h = Gather (E, i)  t = Transpose (E)  y = MatMul (h, t) }"
    )
    assert check_mutations(Quant(bits=8), build(text, E=draw(16, 64)), ["shared"]) == ["shared"]
