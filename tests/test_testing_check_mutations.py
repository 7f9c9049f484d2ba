"""check_mutations: passes that depend on how a model is written are caught."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from onnx import ModelProto, numpy_helper

from onnx_compress.ir.graph import Model
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
)
from onnx_compress.testing.mutated import as_good_as

from models_by_text import (
    build,
    draw,
    same_numbers_in_any_order,  # noqa: F401
)
from mutated_models import (
    DRAWN,
    everything,
)


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
