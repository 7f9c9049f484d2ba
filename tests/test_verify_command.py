"""verify as a whole: verdicts, exit codes, the report, what is printed."""

import json
from importlib import resources

import jsonschema
import numpy as np
import onnx
import pytest

from onnx_compress import compress, verify
from onnx_compress.cli import main
from onnx_compress.ir.errors import CalibrationError, OptionError
from onnx_compress.ir.graph import files, to_proto
from onnx_compress.passes import Event
from onnx_compress.passes.quant import Quant

from graphs import array, parsed


@pytest.fixture(scope="module")
def small(digits, few_digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "small.onnx"
    compress(digits, "quant(bits=8)", few_digits, out=out, measure=False)
    return out


@pytest.fixture(scope="module")
def schema() -> dict:
    text = resources.files("onnx_compress").joinpath("verification.schema.json").read_text("utf-8")
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def tampered(small, tmp_path, bare: bool = False):
    """The file with some codes flipped."""
    proto = onnx.load(small)
    tensor = max((t for t in proto.graph.initializer), key=lambda t: len(t.raw_data))
    raw = np.frombuffer(tensor.raw_data, np.int8).copy()
    raw[::40] ^= 0x40
    tensor.raw_data = raw.tobytes()
    if bare:
        del proto.metadata_props[:]
    path = tmp_path / "tampered.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, tensor.name


def test_a_sound_model_ends_with_zero_and_a_report(
    digits, few_digits, small, schema, tmp_path, capsys
):
    report = tmp_path / "v.json"
    data = str(few_digits)
    code = main(["verify", str(digits), str(small), "--data", data, "--report", str(report)])
    assert code == 0
    found = json.loads(report.read_text("utf-8"))
    jsonschema.validate(found, schema)
    assert found["verdict"] == "sound"
    assert found["stored"]["digests"]
    assert found["executed"]["wrong"] == 0
    assert found["whole"]["same_bits"]
    assert {(run["optimized"], run["threads"] > 1) for run in found["whole"]["runs"]} == {
        (True, False),
        (False, False),
        (True, True),
    }
    shares = [row["share"] for row in found["layers"]["table"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line][1:5] == [
        "file",
        "memory",
        "stored",
        "executed",
    ]
    assert lines[-1].startswith("verdict  sound")


def test_a_changed_file_ends_with_nine_and_the_name(digits, small, tmp_path, capsys):
    path, name = tampered(small, tmp_path)
    assert main(["verify", str(digits), str(path)]) == 9
    out = capsys.readouterr().out
    assert f"wrong: {name}: was changed after it was written" in out
    assert "verdict  wrong" in out


def test_without_digests_the_weight_is_suspect(digits, small, tmp_path):
    path, name = tampered(small, tmp_path, bare=True)
    found = verify(digits, path, layers=False)
    assert found.verdict == "suspect"
    assert found.exit_code == 9
    (finding,) = [one for one in found.findings if one.level == "stored"]
    (pair,) = [pair for pair in found.levels.stored.pairs if pair.compressed.name == finding.where]
    assert pair.compressed.codes.name == name


def test_an_error_above_the_limit_ends_with_six(digits, small, schema):
    found = verify(digits, small, max_error=1e-6)
    assert (found.verdict, found.exit_code) == ("worse", 6)
    jsonschema.validate(found.as_dict(), schema)


def test_the_original_is_sound_against_itself(digits, schema):
    found = verify(digits, digits)
    assert found.verdict == "sound"
    assert found.levels.whole.error == 0
    assert not found.levels.layers.table
    jsonschema.validate(found.as_dict(), schema)


def model(body: str = "y = MatMul(x, w)", output: str = "float[N,8] y", **more):
    return parsed(f"(float[N,16] x) => ({output}) {{ {body} }}", w=array(16, 8), **more)


def test_a_model_with_another_interface_is_wrong(schema):
    found = verify(model(), model("z = MatMul(x, w)", "float[N,8] z"))
    assert found.verdict == "wrong"
    assert {"y", "z"} <= {one.where for one in found.findings}
    other = parsed("(float[N,16] u) => (float[N,8] y) { y = MatMul(u, w) }", w=array(16, 8))
    found = verify(model(), other)
    assert found.levels is None
    assert "its inputs are u" in found.findings[0].text
    jsonschema.validate(found.as_dict(), schema)


def test_a_model_that_does_not_load_is_wrong(schema):
    found = verify(model(), model("y = NoSuchThing(x, w)"))
    assert (found.verdict, found.exit_code, found.levels) == ("wrong", 9, None)
    jsonschema.validate(found.as_dict(), schema)


def test_a_model_that_gives_nan_is_wrong():
    broken = model("h = MatMul(x, w)  n = Neg(h)  a = Abs(h)  m = Neg(a)  y = Sqrt(m)")
    found = verify(model(), broken)
    assert found.verdict == "wrong"
    assert any("gives NaN" in one.text for one in found.findings)


def test_an_original_that_cannot_be_run_is_an_error(tmp_path, capsys):
    path = tmp_path / "none.onnx"
    assert main(["verify", str(path), str(path)]) == 3
    assert capsys.readouterr().err.count("\n") == 2
    with pytest.raises(CalibrationError):
        verify(model(), model(), {"strange": array(2, 16)})
    with pytest.raises(OptionError):
        verify(model(), model(), max_error=float("nan"))
    with pytest.raises(OptionError):
        verify(model(), model(), threads=0)


def test_every_level_tells_how_far_it_is(digits, small):
    events: list[Event] = []
    verify(digits, small, on_event=events.append)
    stages = [event.text for event in events if event.kind == "stage"]
    assert stages[:1] == ["original"]
    assert {"file", "stored", "executed", "whole model"} <= set(stages)
    assert any(event.kind == "progress" and event.total for event in events)


def test_a_model_that_was_not_cleaned_up_is_compared_with_the_original_as_it_is(digits, tmp_path):
    out = tmp_path / "plain.onnx"
    compress(digits, "quant(bits=8)", out=out, fold=False, measure=False)
    bare = files.load(out)
    bare.set_metadata("onnx_compress.sha256", None)
    assert verify(digits, bare, layers=False).verdict == "sound"


def test_models_run_in_pieces_are_looked_at_as_far_as_they_can_be(digits, small, schema):
    found = verify(digits, small, memory=100_000)
    assert found.verdict == "sound"
    assert found.levels.executed is None
    assert any("run in pieces" in one.text for one in found.findings)
    jsonschema.validate(found.as_dict(), schema)


def test_outputs_that_nothing_can_be_told_of_are_named():
    body = "h = MatMul(x, w)  r = RandomNormalLike(h)  y = Add(h, r)"
    one = model(body)
    found = verify(one, one)
    assert found.verdict == "sound"
    assert any("differs between equal runs: not judged" in text for text in found.warnings)
    assert not any("between one thread and several" in text for text in found.warnings)


def test_the_weight_that_was_spoilt_adds_most_to_the_error(monkeypatch):
    body = "a = MatMul(x, w)  b = Tanh(a)  y = MatMul(b, v)"
    original = model(body, v=array(8, 8))
    spoilt = to_proto(files.from_proto(original))
    for tensor in spoilt.graph.initializer:
        numbers = onnx.numpy_helper.to_array(tensor).copy()
        numbers += (0.3 if tensor.name == "v" else 0.001) * array(*numbers.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    table = verify(original, spoilt).levels.layers
    assert (table.method, table.table[0].weight) == ("put back", "v")
    assert table.table[0].share > 0.9
    monkeypatch.setattr("onnx_compress.passes.verify.contributions.WORK", 0)
    table = verify(original, spoilt).levels.layers
    assert (table.method, table.table[0].weight) == ("first order", "v")
    assert table.table[0].share > 0.9


def square(body, **weights):
    return parsed(f"(float[N,8] x) => (float[N,8] y) {{ {body} }}", **weights)


def changed(original, **numbers):
    """The same model with these stored numbers."""
    out = to_proto(files.from_proto(original))
    for tensor in out.graph.initializer:
        if tensor.name in numbers:
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers[tensor.name], tensor.name))
    return out


@pytest.mark.parametrize("body", ["Gemm(x, w, b)", "Add(m, b)"])
def test_biases_that_make_up_for_weights_go_with_them(body):
    """What a weight adds on average is taken off by its bias: it must not be blamed for that."""
    w, b, v = array(8, 8), array(8), array(8, 8)
    first = "" if body.startswith("Gemm") else "m = MatMul(x, w) "
    original = square(f"{first}a = {body}  y = MatMul(a, v)", w=w, b=b, v=v)
    off = np.float32(0.5) * array(8, 8)
    x = np.full((4, 8), 3, np.float32) + np.float32(0.01) * array(4, 8)
    made_up = b - np.full(8, 3, np.float32) @ off
    small = changed(original, w=w + off, b=made_up, v=v + np.float32(0.05) * array(8, 8))
    found = verify(original, small, {"x": x[:, None]})
    table = found.levels.layers
    assert table.method == "put back"
    assert table.weights_error == pytest.approx(found.levels.whole.error, rel=0.05)
    assert (table.table[0].weight, table.table[0].share > 0.9) == ("v", True)


def test_weights_scaled_against_each_other_are_not_blamed(monkeypatch):
    w, v = array(8, 8), array(8, 8)
    original = square("a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v)", w=w, v=v)
    noise = np.float32(0.01) * array(8, 8)
    table = verify(original, changed(original, w=w * 4, v=v / 4 + noise)).levels.layers
    assert (table.method, table.table) == ("none", ())
    assert "make up for one another" in table.findings[0].text  # 4 and 1/4, whole in the original
    smoothed = square("s = Mul(x, k)  y = MatMul(s, v)", k=np.float32(0.25), v=v)
    table = verify(smoothed, changed(smoothed, k=np.float32(1), v=v / 4 + noise)).levels.layers
    assert (table.method, table.table) == ("none", ())
    assert "changed together with others" in table.findings[0].text
    monkeypatch.setattr("onnx_compress.passes.verify.contributions.WORK", 0)
    table = verify(smoothed, changed(smoothed, k=np.float32(4), v=v / 16 * 20)).levels.layers
    assert table.method == "first order"  # its outputs are as far off
    smoothed = square("s = Mul(x, k)  y = MatMul(s, v)", k=np.float32(4), v=v)
    table = verify(smoothed, changed(smoothed, k=np.float32(1), v=v * 4 + noise)).levels.layers
    assert (table.method, table.table) == ("none", ())


def test_infinities_of_a_mask_are_no_difference():
    table = array(40, 8)
    table[3] = -np.inf
    original = parsed("(int64[N] i) => (float[N,8] y) { y = Gather(w, i) }", w=table)
    near = np.where(np.isfinite(table), table * np.float32(1.01), table)
    found = verify(original, changed(original, w=near), {"i": np.arange(4)[:, None] % 3})
    assert found.levels.stored.weights[0].error == pytest.approx(0.01, rel=0.01)


def test_only_samples_that_nothing_was_fitted_to_are_judged():
    original = square("y = MatMul(x, w)", w=np.eye(8, dtype=np.float32))
    small = changed(original, w=np.diag(np.float32([1, 1, 1, 1, 0, 0, 0, 0])))
    x = np.zeros((6, 4, 8), np.float32)
    x[:3, :, 4:], x[3:, :, :4] = 1, 1  # the first half is lost whole, the other kept
    for fit, error in ([1, 1, 1, 0, 0, 0], 0.0), ([0, 0, 0, 1, 1, 1], 1.0):
        found = verify(original, small, {"x": x, "__fit__": np.array(fit)})
        assert found.levels.whole.error == pytest.approx(error)
        assert found.samples == 3
    assert verify(original, small, {"x": x[:1]}).samples == 1


def test_small_weights_are_compared_with_the_original_too_where_cleaning_up_changed_them():
    text = """(float[1,10,8,8] x) => (float y) {
        a = Conv(x, w) y = BatchNormalization(a, scale, bias, mean, var) }"""
    scale = np.linspace(0.05, 20, 10, dtype=np.float32)
    rest = {name: array(10) for name in ("bias", "mean")}
    proto = parsed(text, w=array(10, 10, 3, 3), scale=scale, var=np.ones(10, "f"), **rest)
    small = Quant(bits=8)(proto)  # of 3.6 kB, as it stands before BatchNormalization
    found = verify(proto, small)
    assert found.verdict == "sound"
    assert found.levels.stored.weights
    assert all(weight.error < 0.02 for weight in found.levels.stored.weights)
