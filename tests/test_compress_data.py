"""compress: the samples it is given, in every form, and those it refuses."""

from typing import Any

import numpy as np
import pytest

from onnx_compress.ir.errors import CalibrationError

from models_by_text import (
    SAMPLES,
    draw,
    quick,
    reset_numbers,
    run,
    same_numbers_in_any_order,  # noqa: F401
    source_file,  # noqa: F401
)

reset_numbers()


def arrays(**changes: Any) -> dict[str, Any]:
    return {name: array for name, array in (SAMPLES | changes).items() if array is not None}


BAD = {
    "a name that is none": arrays(x=None, z=draw(8, 96)),
    "a name too many": arrays(z=draw(8, 96)),
    "nothing": {},
    "another width": arrays(x=draw(8, 95)),
    "another rank": arrays(x=draw(8, 2, 3, 96)),
    "another type": arrays(x=draw(8, 96).astype("float64")),
    "whole numbers": arrays(x=np.ones((8, 96), "int64")),
    "NaN": arrays(x=np.full((8, 96), np.nan, "float32")),
    "infinity in one": arrays(x=np.where(np.arange(8)[:, None] == 5, np.inf, draw(8, 96))),
    "one sample": arrays(x=draw(1, 96)),
    "no sample": arrays(x=draw(0, 96)),
    "too few labels": arrays(__labels__=np.zeros(7, "int64")),
    "labels that are no numbers": arrays(__labels__=np.array(["a"] * 8)),
    "labels of floats": arrays(__labels__=np.zeros(8)),
    "labels of two axes": arrays(__labels__=np.zeros((8, 1), "int64")),
}


BAD["infinity in one"]["x"] = BAD["infinity in one"]["x"].astype("float32")


@pytest.mark.parametrize("name", BAD)
def test_data_that_do_not_fit_are_refused(source, tmp_path, name):
    path, out = tmp_path / "data.npz", tmp_path / "out.onnx"
    np.savez(path, **BAD[name])
    for given in (BAD[name], path):
        with pytest.raises(CalibrationError) as caught:
            quick(source, "quant(bits=8)", given, out)
        assert caught.value.hint
        assert caught.value.exit_code == 5
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 50, b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["data.npz", "data.npy"])
def test_a_damaged_file_of_data_is_refused(source, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CalibrationError) as caught:
        quick(source, "quant(bits=8)", path)
    assert name in str(caught.value)


def test_a_file_of_data_that_is_cut_short_is_refused(source, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=draw(8, 96))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CalibrationError):
        quick(source, "quant(bits=8)", path)


def test_objects_in_a_file_of_data_are_never_loaded(source, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([{}, None], dtype=object))
    with pytest.raises(CalibrationError):
        quick(source, "quant(bits=8)", path)


def test_a_missing_file_of_data_is_refused(source, tmp_path):
    with pytest.raises(CalibrationError):
        quick(source, "quant(bits=8)", tmp_path / "nowhere.npz")


def test_data_may_be_given_in_many_ways(source, tmp_path):
    x = draw(8, 96)
    np.savez(tmp_path / "stacked.npz", x=x)
    np.savez(tmp_path / "extra.npz", x=x[:, None])
    np.savez(tmp_path / "numbered.npz", **{f"x/{at}": x[at : at + 1] for at in range(8)})
    np.save(tmp_path / "one.npy", x)
    rows = [{"x": x[at : at + 1]} for at in range(8)]
    ways = [
        {"x": x},
        rows,
        iter(rows),
        *(tmp_path / f"{name}.npz" for name in ("stacked", "extra", "numbered")),
        str(tmp_path / "one.npy"),
    ]
    reports = [quick(source, "quant(bits=8)", way).report for way in ways]
    assert {report.judged for report in reports} == {4}
    assert len({report.error for report in reports}) == 1


@pytest.mark.parametrize("bad", [[1, 2], ["x"], 3, [{"x": [1, 2]}, {"x": "text"}]])
def test_things_that_are_no_samples_are_refused(source, bad):
    with pytest.raises(CalibrationError):
        quick(source, "quant(bits=8)", bad)


def test_labels_give_the_accuracy_on_samples_not_fitted_on(digits):
    with np.load(digits.with_suffix(".npz")) as data:
        images, labels = data["image"][:80], data["__labels__"][:80]
    labels[::2] = (labels[::2] + 1) % 10  # those to fit on are wrong, which must not matter
    given = {"image": images, "__labels__": labels, "__fit__": [1, 0] * 40}
    result = quick(digits, "quant(bits=8)", given)
    accuracy = result.report.metric
    assert accuracy is not None
    assert accuracy.samples == 40
    assert accuracy.before > 0.9
    for model, share in ((digits, accuracy.before), (result.model, accuracy.after)):
        (scores,) = run(model, {"image": images[1::2]})
        assert (scores.argmax(axis=1) == labels[1::2]).mean() == pytest.approx(share)
