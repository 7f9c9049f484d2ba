"""The commands behind the figures in docs/benchmarks.md: what they count, and when they fail."""

import re
from collections.abc import Callable

import pytest
from onnx import ModelProto

from onnx_compress.bench import drawn, held, others
from onnx_compress.passes import Pipeline
from onnx_compress.passes.clean import Fold

import broken_functions as functions
from broken_passes import Halved
from models_by_text import build, draw


def product() -> ModelProto:
    text = "g (float[N,4] x) => (float[N,3] y) { y = Gemm (x, W, b) }"
    model = build(text, W=draw(4, 3), b=draw(3))
    model.producer_name = "somebody"
    return model


# ------------------------------------------------------------------------------------------ held


def test_a_pass_that_holds_is_counted(capsys):
    assert held.main(["fold", "prune(sparsity=0.5)", "--count", "12"]) == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one.startswith("fold: 12 models, ")
    assert other.startswith("prune(sparsity=0.5): 12 models, ")
    assert "1 mutated" in one
    assert "failed" not in one + other


def test_one_that_does_not_is_shown_with_a_test(capsys):
    assert [*held.hold(Halved(), product(), False)] == ["models", "failed: outputs_kept"]
    assert "def test_regression():" in capsys.readouterr().out


def test_equal_seeds_give_equal_models_and_others_do_not():
    one, same, other = ({m.SerializeToString() for m in held.some(20, at)} for at in (0, 0, 200))
    assert one == same
    assert len(one & other) < 5
    assert any(model.functions for model in held.some(20, 0))


@pytest.mark.parametrize("text", held.PASSES)
def test_each_pass_of_the_long_run_can_be_read(text):
    (pass_,) = Pipeline.parse(text).passes
    assert str(pass_) == text


# ---------------------------------------------------------------------------------------- others


def crashes(model: ModelProto) -> ModelProto:
    raise RuntimeError("somewhere deep")


def cut(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.initializer[:]
    return out


def negated(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    out.graph.node[0].op_type, out.graph.node[0].input[:] = "Gemm", ["x", "W"]
    return out


def padded(model: ModelProto) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    out.graph.node[0].doc_string = "x" * 1000
    return out


@pytest.mark.parametrize(
    ("tool", "wrong"),
    [
        (lambda model: model, []),
        (Fold(), []),
        (crashes, ["fails or crashes"]),
        (cut, ["invalid"]),
        (functions.closed, ["interface changed"]),
        (negated, ["outputs differ"]),
        (functions.in_place, ["argument changed"]),
        (functions.rebuilt, ["metadata lost"]),
    ],
)
def test_what_a_tool_does_wrong_is_told_apart(tool: Callable[[ModelProto], ModelProto], wrong):
    ran: list[bool] = []
    assert others.judged(tool, product().SerializeToString(), lambda: ran.append(True)) == wrong
    assert bool(ran) == (wrong != [others.FAILS])


def test_a_model_that_grew_is_told_too():
    assert "grew" in others.judged(padded, product().SerializeToString(), lambda: None)


def test_a_tool_has_a_process_of_its_own():
    worker = others.Worker("fold", 60.0)
    try:
        assert worker.judge(product()) == []
    finally:
        worker.stop()


# ----------------------------------------------------------------------------------------- drawn


def test_part_by_part(capsys):
    assert drawn.main(["--count", "12", "--parts", "validity"]) == 0
    text = capsys.readouterr().out
    assert re.search("together +100.000% of 12 valid", text)
    assert "models a second" not in text
    assert drawn.main(["--count", "12", "--parts", "speed", "coverage"]) == 0
    text = capsys.readouterr().out
    assert "models a second" in text
    assert "operators in 12 models" in text
