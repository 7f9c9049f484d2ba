"""Our own passes on models that nobody chose: all that they promise, however a model is written."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import open_session
from onnx_compress.passes import Pass
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.samples import draw
from onnx_compress.testing import (
    check_mutations,
    check_pass,
    examples,
    feed_of,
    feeds,
    models,
    tried,
)
from onnx_compress.testing.checks import outputs_kept

PASSES = (
    Fold(),
    Quant(bits=8),
    Quant(bits=8, activations="float"),
    Quant(bits=16),
    Quant(bits=4),
    Quant(bits=1, bases=2, embedding_bits=3, keep={"*1*": 5}),
    Quant(bits=1.58, sequential=False),
    Prune(sparsity=0.5),
    Prune(channels=0.4),
)
SAFE = replace(targets.load("avx512-vnni"), saturates=True)  # right on any processor
EAGER = replace(  # bytes everywhere
    SAFE,
    speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]},
    convolutions={"static": [[1, 1, 1, 4.0]]},
    conversion=0.01,
    start=0,
)
BEFORE = replace(EAGER, speed={**EAGER.speed, "static": [[1, 1, 4.0, 4.0, 4.0]]})  # products, too
WHOLE = (Fold(), Quant(bits=8), Prune(channels=0.4))  # each pass of ours, as it is used most
each = pytest.mark.parametrize("pass_", PASSES, ids=str)


def folded_and_quantized(model: ModelProto) -> ModelProto:
    return Quant(bits=8)(Fold()(model), target=SAFE)  # type: ignore[no-any-return]


@pytest.mark.parametrize("pass_", WHOLE, ids=str)
@examples(200)
@given(model=models())
def test_a_pass_keeps_its_promises(pass_: Pass, model: ModelProto) -> None:
    check_pass(pass_, model)


@pytest.mark.parametrize("pass_", [p for p in PASSES if p not in WHOLE], ids=str)
@examples(60)
@given(model=models())
def test_a_pass_keeps_its_promises_with_other_options(pass_: Pass, model: ModelProto) -> None:
    check_pass(pass_, model)


@each
@examples(20)
@given(model=models(functions=True))
def test_a_pass_keeps_its_promises_where_there_are_functions(
    pass_: Pass, model: ModelProto
) -> None:
    check_pass(pass_, model)


@each
@examples(30)
@given(data=st.data())
def test_a_pass_keeps_the_outputs_of_extreme_inputs(pass_: Pass, data: st.DataObject) -> None:
    """Zeros, denormals, large numbers, all of them; one sample and three."""
    model = data.draw(models())
    fit = data.draw(feeds(model))
    outputs_kept(tried(pass_, model, [fit]), [fit])


@each
@examples(30)
@given(data=st.data())
def test_a_pass_keeps_the_outputs_of_inputs_that_it_did_not_see(
    pass_: Pass, data: st.DataObject
) -> None:
    """Extreme ones after ordinary ones. Ranges of static integers are those of what was seen."""
    model = data.draw(models())
    fit, other = feed_of(from_proto(model), size=2), data.draw(feeds(model))
    trial = tried(pass_, model, [fit])
    assume(trial.report is not None and not any("static" in e.text for e in trial.report.changes))
    outputs_kept(trial, [fit, other])


def unnamed(pass_: Pass) -> Pass:
    """Without options that go by names, which are what some mutations change."""
    return replace(pass_, keep=None) if isinstance(pass_, Quant) else pass_


@each
@examples(10)
@given(model=models() | models(ops=["Gemm", "embedding", "Relu"]))
def test_a_pass_does_the_same_however_the_model_is_written(pass_: Pass, model: ModelProto) -> None:
    check_mutations(unnamed(pass_), model)


@examples(50)
@given(model=models())
def test_quantized_after_cleaning(model: ModelProto) -> None:
    check_pass(
        folded_and_quantized, model, tolerance=Quant(bits=8).weight_error, skip=["reference_agrees"]
    )


def with_data(model: ModelProto, target: targets.Target = EAGER) -> ModelProto:
    """Static activations and smoothing, which need inputs: drawn ones stand for real ones."""
    read = from_proto(model)
    fit = draw(read, open_session(read), 4, 0)
    return Quant(bits=8)(model, sample=fit[0], fit=fit, target=target)  # type: ignore[no-any-return]


def with_products(model: ModelProto) -> ModelProto:
    """The inputs of products are static, too."""
    return with_data(model, BEFORE)


@examples(15)
@given(model=models())
def test_quantized_with_data(model: ModelProto) -> None:
    # ranges are those of four samples: other inputs may well be cut off
    check_pass(with_data, model, skip=["reference_agrees", "outputs_kept"])


@examples(30)
@given(model=models(ops=["Gemm", "MatMul", "Add", "Relu", "Clip", "Reshape", "Conv"]) | models())
def test_quantized_with_data_for_products(model: ModelProto) -> None:
    check_pass(with_products, model, skip=["reference_agrees", "outputs_kept"])
