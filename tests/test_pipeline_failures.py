"""Pipelines at work: passes that break the model, refuse or crash, and what is left of them."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from onnx_compress import compress
from onnx_compress.ir.errors import (
    CompressError,
    InvalidError,
    PassError,
    PreconditionError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, from_proto
from onnx_compress.passes import Pipeline

from models_by_text import Change, DropsNode, Scale, doubler, factor, run_passes, scale


class RenamesOutput(Change):
    def apply(self, model: Model) -> None:
        model.graph.outputs[0][0].name = "z"


class AddsOutput(Change):
    def apply(self, model: Model) -> None:
        model.graph.outputs.append((model.add_node(model.graph, "Neg", [model.inputs()[0]]), None))


class UnknownOperator(Change):
    def apply(self, model: Model) -> None:
        out = model.add_node(model.graph, "Nonsense", [model.inputs()[0]])
        model.replace_uses(model.outputs()[0], out)


class WrongShape(Change):
    def apply(self, model: Model) -> None:
        (value,) = model.graph.initializers
        model.set_constant(value, np.ones((7, 5), "float32"))


class WrongType(Change):
    def apply(self, model: Model) -> None:
        (value,) = model.graph.initializers
        value.tensor = numpy_helper.from_array(np.float64([2]))


class MakesNothing(Change):
    def apply(self, model: Model) -> None:
        model.set_opset("", 9999)


class BreaksUseList(Change):
    def apply(self, model: Model) -> None:
        model.inputs()[0].uses.clear()


class MakesCycle(Change):
    def apply(self, model: Model) -> None:
        first, last = model.graph.nodes
        model.set_input(first, 0, last.output)


class ForbiddenEdit(Change):
    def apply(self, model: Model) -> None:
        model.rename(model.outputs()[0], "z")


class Refuses(Change):
    def apply(self, model: Model) -> None:
        raise PreconditionError("needs something else", "give it")


class Crashes(Change):
    def apply(self, model: Model) -> None:
        scale(model, 1 / len(model.functions))


BREAKING = [
    RenamesOutput,
    AddsOutput,
    DropsNode,
    UnknownOperator,
    WrongShape,
    WrongType,
    MakesNothing,
    BreaksUseList,
    MakesCycle,
]


FAILING = [*BREAKING, ForbiddenEdit, Refuses, Crashes]


@pytest.mark.parametrize("kind", BREAKING, ids=lambda kind: kind.__name__)
def test_a_pass_that_breaks_the_model_ends_the_run(kind):
    with pytest.raises(VerificationError) as caught:
        run_passes(kind())
    assert "change" in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("kind", [ForbiddenEdit, Crashes], ids=lambda kind: kind.__name__)
def test_a_pass_that_fails_by_itself_is_named(kind):
    with pytest.raises(PassError) as caught:
        run_passes(kind())
    assert "change" in str(caught.value)


def test_a_pass_that_refuses_is_named_and_keeps_its_hint():
    with pytest.raises(PreconditionError) as caught:
        run_passes(Refuses())
    assert "change" in str(caught.value)
    assert caught.value.hint == "give it"


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_keep_going_leaves_the_failed_pass_out(kind):
    outcome = run_passes(Scale(factor=1.01), kind(), Scale(factor=1.02), keep_going=True)
    assert factor(outcome) == pytest.approx(2 * 1.01 * 1.02)
    assert [bool(stage.failure) for stage in outcome.stages] == [False, True, False]
    failed = outcome.stages[1]
    assert failed.bytes_before == failed.bytes_after
    assert failed.quality is None
    assert not failed.report.modified


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_nothing_is_written_where_a_pass_fails(kind, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(CompressError):
        compress(doubler(), Pipeline((kind(),)), out=out)
    assert not list(tmp_path.iterdir())


def test_with_keep_going_the_failure_is_a_warning(tmp_path):
    out = tmp_path / "out.onnx"
    result = compress(doubler(), [RenamesOutput()], out=out, keep_going=True, fold=False)
    assert any("change" in warning for warning in result.report.warnings)
    assert result.report.unchanged
    assert out.exists()


def test_a_verb_that_refuses_says_which_rule_it_keeps():
    model = from_proto(doubler())
    with pytest.raises(InvalidError):
        model.rename(model.outputs()[0], "z")
    with pytest.raises(InvalidError):
        model.set_constant(next(iter(model.graph.initializers)), np.float64([1]))
    assert model.tensor(next(iter(model.graph.initializers))).data_type == TensorProto.FLOAT
