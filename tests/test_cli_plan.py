"""--dry-run, --no-verify, --max-drop, and a metric from Python: what is looked at, and what not."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_compress import CompressError, compress, plan
from onnx_compress.cli import main
from onnx_compress.ir.errors import CalibrationError, QualityError, VerificationError
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.passes import Entry, Pass, Phase, Report

from graphs import parsed, product, weight
from places import contents, names

EIGHT = ["--passes", "quant(bits=8)"]
FILES = ["data.npz", "in.onnx"]


def rows(count: int = 16) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 64)).astype("float32")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    np.savez(tmp_path / "data.npz", x=rows())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reported(*arguments: str, code: int = 0) -> dict:
    """The report of a command that ends with this exit code."""
    assert main([*arguments, "--quiet", "--report", "report.json"]) == code
    return json.loads(Path("report.json").read_text())


def refused(arguments: list[str], capsys) -> None:
    """Exit code 2, two lines, and nothing is written."""
    before = contents(Path())
    assert main(arguments) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error", "hint"
    ]  # fmt: skip
    assert contents(Path()) == before


# -------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("output", [[], ["out.onnx"], ["older.onnx"], ["in.onnx"]])
def test_a_plan_writes_nothing(output, place, capsys):
    (place / "older.onnx").write_bytes(b"older")
    before = contents(place)
    assert main(["in.onnx", *output, "--dry-run", *EIGHT]) == 0
    assert contents(place) == before
    printed = capsys.readouterr().out
    for word in ("quant(bits=8)", "size", "estimate", "not judged", "nothing was judged"):
        assert word in printed
    assert "strongest" not in printed


PASSES = ["fold", "quant(bits=8)", "quant(bits=16)", "prune(sparsity=0.5),quant(bits=8)"]


@pytest.mark.parametrize("passes", PASSES)
def test_a_plan_of_passes_with_numbers_is_what_a_run_then_does(passes, place):
    arguments = ["in.onnx", "out.onnx", "--passes", passes, "--calib", "data.npz"]
    planned = reported(*arguments, "--dry-run")
    assert not (place / "out.onnx").exists()
    done = reported(*arguments)
    assert planned["size"] == done["size"]
    assert planned["size"]["after"] == (place / "out.onnx").stat().st_size
    for key in ("cost", "passes", "target", "seed", "exclude"):
        assert planned[key] == done[key]
    assert planned["speed"]["estimated"] == done["speed"]["estimated"]
    for before, after in zip(planned["stages"], done["stages"], strict=True):
        for key in ("pass", "summary", "bytes_after", "changes", "skipped"):
            assert before[key] == after[key]


def test_a_plan_of_the_shipped_example_has_the_sizes_of_the_run(digits, few_digits):
    arguments = [str(digits), "out.onnx", *EIGHT, "--calib", str(few_digits)]
    assert reported(*arguments, "--dry-run")["size"] == reported(*arguments)["size"]


def test_the_report_of_a_plan_tells_what_was_not_looked_at(place):
    found = reported("in.onnx", "out.onnx", "--dry-run", *EIGHT, "--max-error", "0.3")
    assert found["verdict"] == "planned"
    assert found["output"] is found["refused"] is found["metric"] is None
    assert found["quality"]["error"] is found["quality"]["sqnr_db"] is None
    assert found["speed"]["measured"] is None
    assert found["quality"]["max_error"] == 0.3
    assert found["quality"]["samples"]["judged"] == 0


def test_a_plan_says_which_passes_a_run_would_still_choose_for(capsys):
    assert main(["in.onnx", "--dry-run", "--passes", "prune(sparsity=0.1),quant"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "strongest setting" in x]
    assert "quant" in line
    assert "prune" not in line


@pytest.mark.parametrize(
    "wrong", ["--max-error=-1", "--max-error=nan", "--max-drop=-1", "--threads=-3", "--seed=-1"]
)
def test_a_plan_refuses_the_numbers_that_a_run_refuses(wrong, capsys):
    refused(["in.onnx", "--dry-run", *EIGHT, wrong], capsys)


def test_the_estimated_speed_is_that_of_integer_products_alone():
    wide = np.random.default_rng(0).standard_normal((1024, 1024)).astype("float32")
    products = parsed("(float[N,1024] x) => (float[N,1024] y) { y = MatMul(x, W) }", W=wide)
    kernel = wide.reshape(-1)[: 64 * 64 * 9].reshape(64, 64, 3, 3)
    conv = parsed("(float[1,64,8,8] x) => (float[1,64,6,6] y) { y = Conv(x, W) }", W=kernel)
    speeds = {
        (name, target): plan(proto, "quant(bits=8)", target=target).estimated_speed
        for name, proto in (("products", products), ("conv", conv))
        for target in ("avx512-vnni", "portable")
    }
    assert speeds.pop(("products", "avx512-vnni")) > 1
    assert set(speeds.values()) == {1.0}


def test_a_plan_from_python_leaves_the_model_alone():
    proto = product()
    before = proto.SerializeToString()
    found = plan(proto, "quant(bits=8)")
    assert found.planned
    assert found.bytes_after < found.bytes_before
    assert found.error is found.timing is None
    assert proto.SerializeToString() == before


# --------------------------------------------------------------------------- the command itself


def test_the_output_may_stand_after_the_options(place):
    assert main(["in.onnx", *EIGHT, "out.onnx", "--quiet"]) == 0
    assert (place / "out.onnx").exists()


def test_an_empty_text_of_passes_is_not_the_default(capsys):
    refused(["in.onnx", "out.onnx", "--passes", ""], capsys)


@pytest.mark.parametrize("option", ["--report", "--save-recipe"])
@pytest.mark.parametrize("taken", ["in.onnx", "data.npz", "out.onnx"])
def test_no_other_file_takes_the_place_of_a_model_or_of_the_data(option, taken, place, capsys):
    before = contents(place)
    arguments = ["in.onnx", "out.onnx", *EIGHT, "--calib", "data.npz"]
    code = main([*arguments, option, str(place / taken)])
    for name in FILES:
        assert (place / name).read_bytes() == before[name], name
    assert code in (2, 7)
    assert contents(place) == before


# ------------------------------------------------------------------------------------ no verify


@pytest.mark.parametrize("passes", [[], ["--passes", "quant"], ["--passes", "fold,prune"]])
def test_without_checks_passes_need_numbers(passes, capsys):
    refused(["in.onnx", "out.onnx", "--no-verify", *passes], capsys)


@pytest.mark.parametrize("passes", ["fold", "prune(sparsity=0.5),quant(bits=8)"])
def test_without_checks_the_result_is_the_same_one(passes, place):
    assert main(["in.onnx", "checked.onnx", "--passes", passes, "--quiet"]) == 0
    assert main(["in.onnx", "out.onnx", "--passes", passes, "--quiet", "--no-verify"]) == 0
    assert (place / "out.onnx").read_bytes() == (place / "checked.onnx").read_bytes()


def test_the_report_of_a_run_without_checks_has_nulls():
    found = reported("in.onnx", "out.onnx", "--no-verify", *EIGHT)
    assert found["verdict"] == "compressed"
    quality = found["quality"]
    assert quality["error"] is quality["sqnr_db"] is found["speed"]["measured"] is None
    assert quality["outputs"] == []
    assert found["metric"] is None
    assert quality["samples"]["judged"] == 0
    assert any("not verified" in warning for warning in found["warnings"])


def test_layers_of_a_run_without_checks_are_not_told_to_be_perfect(place):
    code = main(["in.onnx", "out.onnx", "--no-verify", *EIGHT, "--layers", "--report", "r.json"])
    if code != 2:
        layers = json.loads((place / "r.json").read_text())["layers"]
        assert [layer["error"] for layer in layers if layer["error"] is not None] == []


@pytest.mark.parametrize("limit", ["--max-error", "--max-drop"])
def test_limits_that_nothing_would_check_are_refused(limit, capsys):
    refused(["in.onnx", "out.onnx", "--no-verify", *EIGHT, limit, "1e-9"], capsys)


@dataclass(frozen=True)
class Nan(Pass):
    """Breaks all weights."""

    name: ClassVar[str] = "nan"

    @property
    def phase(self) -> Phase:
        return Phase.MASK

    def run(self, model, context) -> Report:
        for found in context.weights(model):
            Dense(np.full(found.shape, np.nan, "float32")).emit(found)
        return Report((Entry("all", "set to NaN"),))


def test_without_checks_nan_is_not_seen():
    assert not compress(product(), Nan(), verify=False).report.unchanged


@pytest.mark.parametrize("data", [None, {"x": rows()}], ids=["drawn", "real"])
def test_with_checks_a_result_of_nan_is_refused(data):
    with pytest.raises(VerificationError, match="NaN"):
        compress(product(), Nan(), data)


# ------------------------------------------------------------------------------------- max drop


def labelled(name: str = "labels.npz", count: int = 512) -> str:
    """Data that the model is right about, closely: products of a random matrix."""
    x = rows(count)
    np.savez(name, x=x, __labels__=(x @ weight(0) @ weight(1)).argmax(1))
    return name


@pytest.mark.parametrize("most", [0.0, 0.004, 1.0])
def test_a_pass_without_numbers_keeps_within_the_drop(most):
    data = labelled()
    arguments = ["in.onnx", "out.onnx", "--passes", "quant", "--calib", data]
    found = reported(*arguments, "--max-drop", str(most))
    metric = found["metric"]
    assert (metric["name"], metric["before"], metric["samples"]) == ("accuracy", 1.0, 256)
    assert metric["before"] - metric["after"] <= most == metric["max_drop"]
    assert found["quality"]["max_error"] is None
    taken = found["stages"][-1]["pass"]
    assert ("bits=8" in taken) == (most == 1.0)


def test_a_drop_that_is_too_large_is_refused_with_a_report(place, digits, capsys):
    data = str(digits.with_suffix(".npz"))
    arguments = [str(digits), "out.onnx", "--calib", data, "--passes", "prune(sparsity=0.95)"]
    found = reported(*arguments, "--max-drop", "0.01", code=6)
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert names(place) == sorted([*FILES, "report.json"])
    assert found["verdict"] == "refused"
    assert "falls by" in found["refused"]
    assert [stage["pass"] for stage in found["stages"]] == ["fold", "prune(sparsity=0.95)"]
    assert found["metric"]["before"] - found["metric"]["after"] > 0.01  # what was it, then?
    assert found["quality"]["error"] > 0


@pytest.mark.parametrize("data", [[], ["--calib", "data.npz"]])
def test_a_drop_without_labels_is_a_wrong_command(data, capsys):
    refused(["in.onnx", "out.onnx", *EIGHT, *data, "--max-drop", "0.1"], capsys)


def test_error_and_drop_may_both_be_limited():
    arguments = ["in.onnx", "out.onnx", "--calib", labelled(), "--max-drop", "1"]
    found = reported(*arguments, "--max-error", "1e-7", "--passes", "quant")
    assert found["verdict"] == "unchanged"
    assert found["quality"]["max_error"] == 1e-7
    found = reported(*arguments, "--max-error", "1e-7", *EIGHT, code=6)
    assert "above" in found["refused"]


def test_limits_may_be_infinite():
    arguments = ["in.onnx", "out.onnx", "--calib", labelled(), *EIGHT]
    assert reported(*arguments, "--max-drop", "inf", "--max-error", "inf")["metric"]


# ----------------------------------------------------------------------------- metric, in Python


def mean(session) -> float:
    return float(session.run(["y"], {"x": rows()})[0].mean())


def test_a_metric_gets_something_like_a_session_of_the_runtime():
    kinds = "float[N,64] x, int64[2] i, bool b, float16[?] h, string[M] s, uint8 u"
    outs = "float[N,64] y, int64[2] k"
    ignored = " ".join(f"z{n} = Identity({n})" for n in "bhsu")
    proto = parsed(f"({kinds}) => ({outs}) {{ y = MatMul(x, w) k = Neg(i) {ignored} }}", w=weight())
    theirs = ort.InferenceSession(proto.SerializeToString())
    feed = {
        "x": rows(2), "i": np.array([1, 2]), "b": np.array(True), "h": np.ones(3, "float16"),
        "s": np.array(["a"], object), "u": np.array(1, "uint8"),
    }  # fmt: skip

    def described(session) -> list:
        return [(p.name, p.shape, p.type) for p in (*session.get_inputs(), *session.get_outputs())]

    def same(session) -> float:
        assert described(session) == described(theirs)
        for chosen in (None, ["k"], ["k", "y"], []):
            expected, found = (s.run(chosen, feed) for s in (theirs, session))
            assert [a.shape for a in expected] == [a.shape for a in found]
        session.run(output_names=["y"], input_feed=feed, run_options=None)
        return 1.0

    result = compress(proto, "quant(bits=8)", [feed, feed], metric=same, measure=False)
    assert result.report.metric.name == "same"


def test_a_metric_decides_also_where_a_model_is_run_in_pieces():
    strict = {"metric": mean, "max_drop": 0.0, "strict": True, "measure": False}
    first = compress(product(), "quant", {"x": rows()}, **strict).report.metric
    pieces = compress(product(), "quant", {"x": rows()}, memory=1, **strict).report.metric
    assert first.before == pytest.approx(mean(ort.InferenceSession(product().SerializeToString())))
    assert first.after >= first.before
    assert (first.before, first.after) == pytest.approx((pieces.before, pieces.after))


WRONG = {
    "it raises": lambda session: 1 / 0,
    "not a number": lambda session: float("nan"),
    "infinite": lambda session: float("inf"),
    "nothing": lambda session: None,
    "an array": lambda session: np.zeros(3),
    "no such output": lambda session: session.run(["z"], {"x": rows()}),
    "no such input": lambda session: session.run(None, {"z": rows()}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_metric_that_gives_no_number_is_named(name, place):
    def badly(session) -> float:
        return WRONG[name](session)

    with pytest.raises(CalibrationError, match="badly"):
        compress("in.onnx", "quant(bits=8)", {"x": rows()}, "out.onnx", metric=badly)
    assert names(place) == FILES


def test_a_metric_that_fails_later_leaves_no_file(place):
    calls = []

    def tired(session) -> float:
        calls.append(session)
        if len(calls) > 1:
            raise ValueError("tired")
        return 1.0

    for again in (False, True):
        calls.clear()
        with pytest.raises(CompressError, match="tired"):
            compress(
                "in.onnx", "quant(bits=8)", {"x": rows()}, "out.onnx",
                metric=tired, max_drop=0.1, keep_going=again,
            )  # fmt: skip
    assert names(place) == FILES


def test_a_metric_that_falls_too_far_refuses_only_a_strict_run(place):
    reference = ort.InferenceSession("in.onnx").run(["y"], {"x": rows()})[0]

    def equal(session) -> float:
        return float((session.run(["y"], {"x": rows()})[0] == reference).all())

    arguments = {"metric": equal, "max_drop": 0.5, "measure": False}
    with pytest.raises(QualityError) as caught:
        compress("in.onnx", "quant(bits=8)", {"x": rows()}, "out.onnx", strict=True, **arguments)
    assert caught.value.report.refused
    assert names(place) == FILES
    done = compress("in.onnx", "quant(bits=8)", {"x": rows()}, "out.onnx", **arguments)
    assert any("equal fell by 1" in warning for warning in done.report.warnings)
    onnx.checker.check_model("out.onnx", full_check=True)
