"""quant: what biases, and with residual_rank two thin matrices beside a weight, give back."""

import numpy as np
import onnx
import pytest

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

from models_by_text import build, run

RNG = np.random.default_rng(3)
MIX = RNG.standard_normal((96, 96)).astype("f") * np.logspace(-1, 0.5, 96, dtype="f")
FIT = [{"x": (RNG.standard_normal((64, 96)) @ MIX / 10).astype("f")} for _ in range(8)]
HELD = {"x": (RNG.standard_normal((128, 96)) @ MIX / 10).astype("f")}
WEIGHTS = {
    "W": RNG.standard_normal((96, 128)).astype("f"),
    "T": RNG.standard_normal((128, 96)).astype("f"),
    "c": RNG.standard_normal(128).astype("f"),
}
GRAPHS = {
    "MatMul": "y = MatMul(x, W)",
    "bias": "a = MatMul(x, W)  y = Add(a, c)",
    "Gemm": "y = Gemm<alpha=0.5, transB=1>(x, T, c)",
    "turned": "V = Transpose(T)  y = MatMul(x, V)",
    "branch": "a = MatMul(x, W)  b = Relu(a)  y = Mul(a, b)",
}


def model(text: str) -> onnx.ModelProto:
    used = {name: array for name, array in WEIGHTS.items() if name in text}
    return build(f"g (float[N,96] x) => (float[N,128] y) {{ {text} }}", **used)


def quantized(proto, fit=FIT, target="avx2", **options):
    result = from_proto(proto)
    report = Quant(**options).run(result, Context(targets.load(target), HELD, fit))
    invariants.check(result)
    return to_proto(result), report


def error(proto, small) -> float:
    (expected,), (found,) = run(proto, HELD), run(small, HELD)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("fit", [FIT, []], ids=["data", "no data"])
def test_a_correction_takes_off_error(text, fit):
    proto = model(text)
    errors = [
        error(proto, quantized(proto, fit, bits=3, residual_rank=rank)[0]) for rank in (0, 4, 12)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("target", ["avx2", "portable"])
def test_the_report_tells_of_it_and_a_second_run_changes_nothing(target):
    proto = model(GRAPHS["bias"])
    small, report = quantized(proto, target=target, bits=4, residual_rank=8)
    assert "corrected by rank 8" in report.changes[-1].text
    again, second = quantized(small, target=target, bits=4, residual_rank=8)
    assert not second.modified
    assert again == small


def test_factors_are_stored_in_16_bits():
    small, _ = quantized(model(GRAPHS["MatMul"]), bits=2, residual_rank=8)
    halves = [t for t in small.graph.initializer if tuple(t.dims) in ((96, 8), (8, 128))]
    assert {t.data_type for t in halves} == {onnx.TensorProto.FLOAT16}
    assert len(halves) == 2


def test_what_is_too_small_for_the_rank_has_no_correction():
    proto = model(GRAPHS["MatMul"])
    small, report = quantized(proto, bits=4, residual_rank=64)
    assert small == quantized(proto, bits=4)[0]
    assert [entry.text for entry in report.skipped] == ["no correction: too small for rank 64"]


@pytest.mark.parametrize("options", [{}, {"bits": 8}, {"bits": 16, "embedding_bits": 8}])
def test_eight_bits_need_none(options):
    with pytest.raises(OptionError, match="residual_rank"):
        Quant(residual_rank=4, **options)


@pytest.mark.parametrize(
    "text", ["y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, T, c)", GRAPHS["bias"]]
)
def test_biases_take_up_what_shifts_the_means(text):
    proto = model(text)
    fit = [{"x": feed["x"] + np.float32(1)} for feed in FIT]
    small, _ = quantized(proto, fit, bits=2)
    (expected, found) = (
        np.concatenate([run(each, feed)[0] for feed in fit]) for each in (proto, small)
    )
    assert np.abs((found - expected).mean(0)).max() < 1e-3 * np.abs(expected).mean()
