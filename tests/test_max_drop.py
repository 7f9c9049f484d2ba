"""--max-drop and metrics: a model is held to what it scores."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_compress import CompressError, compress
from onnx_compress.ir.errors import CalibrationError, QualityError

from graphs import parsed, product, weight
from places import names
from reported_commands import (
    EIGHT,
    FILES,
    folder_with_a_model,  # noqa: F401
    refused,
    reported,
    rows,
)

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
