"""compress: one run from end to end, and the promises that hold of all of them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import Result, compress
from onnx_compress.ir.errors import (
    CalibrationError,
    CompressError,
    LoadError,
    ModelError,
    OutputError,
    QualityError,
)
from onnx_compress.ir.graph import Model, from_proto, to_bytes
from onnx_compress.passes import Context, Entry, Pass, Phase, Pipeline, Report

RNG = np.random.default_rng(23)
SEEDED = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = SEEDED


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def build(body: str, **weights: np.ndarray) -> ModelProto:
    """A model from text, with these arrays for initializers."""
    model = parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def two_layers() -> ModelProto:
    return build(
        "g (float[N,96] x) => (float[N,32] y) "
        "{ i = Identity (x)  h = Gemm (i, W, b)  r = Relu (h)  y = MatMul (r, V) }",
        W=draw(96, 64),
        b=draw(64),
        V=draw(64, 32),
    )


def nothing_to_do() -> ModelProto:
    return build("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")


SAMPLES = {"x": draw(8, 96)}


def quick(model: Any, *arguments: Any, **options: Any) -> Result:
    return compress(model, *arguments, measure=False, **options)


def run(model: ModelProto | Path | bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    source = model.SerializeToString() if isinstance(model, ModelProto) else model
    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = str(source) if isinstance(source, Path) else source
    return ort.InferenceSession(source, options).run(None, feed)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.onnx"
    path.write_bytes(two_layers().SerializeToString())
    return path


def left(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -------------------------------------------------------------------- kinds of model, in and out


def as_path(proto: ModelProto, folder: Path) -> tuple[Path, Callable[[], bytes]]:
    path = folder / "given.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, path.read_bytes


def as_text_path(proto: ModelProto, folder: Path) -> tuple[str, Callable[[], bytes]]:
    path, state = as_path(proto, folder)
    return str(path), state


def as_proto(proto: ModelProto, folder: Path) -> tuple[ModelProto, Callable[[], bytes]]:
    return proto, lambda: proto.SerializeToString(deterministic=True)


def as_graphsurgeon(proto: ModelProto, folder: Path) -> tuple[gs.Graph, Callable[[], bytes]]:
    graph = gs.import_onnx(proto)
    return graph, lambda: gs.export_onnx(graph).SerializeToString(deterministic=True)


def as_model(proto: ModelProto, folder: Path) -> tuple[Model, Callable[[], bytes]]:
    model = from_proto(proto)
    return model, lambda: to_bytes(model)


KINDS = [as_path, as_text_path, as_proto, as_graphsurgeon, as_model]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", ["quant(bits=8)", "prune(sparsity=0.5),quant(bits=16)"])
def test_the_argument_stays_as_it_is(kind, passes, tmp_path):
    model, state = kind(two_layers(), tmp_path)
    before = state()
    quick(model, passes, SAMPLES)
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_of_the_kind_given(kind, tmp_path):
    proto = two_layers()
    model, _ = kind(proto, tmp_path)
    result = quick(model, "quant(bits=8)", SAMPLES).model
    expected = ModelProto if isinstance(model, str | Path) else type(model)
    assert type(result) is expected
    if isinstance(result, gs.Graph):
        result = gs.export_onnx(result)
    data = result if isinstance(result, ModelProto) else to_bytes(result)
    (before,), (after,) = run(proto, SAMPLES), run(data, SAMPLES)
    assert 0 < np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


def test_with_a_path_and_a_place_the_result_is_the_place(source, tmp_path):
    out = tmp_path / "out.onnx"
    result = quick(source, "quant(bits=8)", out=str(out))
    assert Path(result.model) == out
    assert out.stat().st_size == result.report.bytes_after < source.stat().st_size
    onnx.checker.check_model(str(out), full_check=True)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", {"a": 1}])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(LoadError):
        quick(thing)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        quick(path, out=tmp_path / "out.onnx")
    assert left(tmp_path) == {"in.onnx"}


def test_a_file_that_is_cut_short_is_refused(source, tmp_path):
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(ModelError):
        quick(source, out=tmp_path / "out.onnx")
    assert left(tmp_path) == {"in.onnx"}


# ----------------------------------------------------------------------------------- promises


@pytest.mark.parametrize("passes", ["prune,quant", "quant(bits=8)", "fold"])
def test_equal_runs_give_equal_bytes_at_any_number_of_threads(source, tmp_path, passes):
    contents = set()
    for number, threads in enumerate([1, 1, 2]):
        out = tmp_path / f"out{number}.onnx"
        quick(source, passes, SAMPLES, out, threads=threads)
        contents.add(out.read_bytes())
    assert len(contents) == 1


def test_the_interface_stays(source, tmp_path):
    out = tmp_path / "out.onnx"
    quick(source, "quant(bits=8)", SAMPLES, out)
    before, after = onnx.load(source), onnx.load(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)


@pytest.mark.parametrize("passes", ["prune,quant", "quant(bits=8)", "quant(bits=16)"])
def test_a_second_run_gives_a_copy_of_the_first(source, tmp_path, passes):
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    quick(source, passes, SAMPLES, once)
    report = quick(once, passes, SAMPLES, twice).report
    assert report.unchanged
    assert twice.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("passes", ["prune,quant", "fold", "quant(bits=8)", "prune(sparsity=0.5)"])
def test_what_cannot_be_compressed_is_copied_byte_for_byte(tmp_path, passes):
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    unknown_field = b"\xf2\x7d\x03abc"
    path.write_bytes(nothing_to_do().SerializeToString() + unknown_field)
    report = quick(path, passes, out=out).report
    assert out.read_bytes() == path.read_bytes()
    assert report.unchanged
    assert report.ratio == 1
    assert report.error == 0


def test_an_unchanged_proto_comes_back_equal(tmp_path):
    proto = nothing_to_do()
    result = quick(proto, out=tmp_path / "out.onnx")
    assert result.report.unchanged
    assert result.model == proto
    assert onnx.load(tmp_path / "out.onnx") == proto


@dataclass(frozen=True)
class Bloat(Pass):
    name: ClassVar[str] = "bloat"

    @property
    def phase(self) -> Phase:
        return Phase.ENCODE

    def run(self, model: Model, context: Context) -> Report:
        model.shell.doc_string = "." * 10_000
        return Report((Entry("model", "longer"),))


def test_the_result_is_never_larger(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, Pipeline((Bloat(),)), out=out).report
    assert out.read_bytes() == source.read_bytes()
    assert report.unchanged
    assert any("larger" in warning for warning in report.warnings)


def test_figures_of_the_report_are_those_of_the_files(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, "quant(bits=8)", SAMPLES, out).report
    assert report.bytes_before == source.stat().st_size
    assert report.bytes_after == out.stat().st_size
    assert report.ratio == pytest.approx(source.stat().st_size / out.stat().st_size)
    judged = [{"x": SAMPLES["x"][at : at + 1]} for at in range(1, 8, 2)]
    r, y = (np.concatenate([run(path, feed)[0] for feed in judged]) for path in (source, out))
    centred = np.linalg.norm(r - r.mean(axis=0))
    assert report.error == pytest.approx(np.linalg.norm(y - r) / centred, rel=0.05)
    assert report.quality.sqnr_db == pytest.approx(
        20 * np.log10(np.linalg.norm(r) / np.linalg.norm(y - r)), abs=0.5
    )
    assert (report.fitted, report.judged) == (4, 4)
    assert not report.drawn


def test_the_error_stays_below_the_one_allowed(source):
    for allowed in (0.1, 0.02, 0.001, 1e-6):
        report = quick(source, "prune,quant", SAMPLES, max_error=allowed).report
        assert report.error <= allowed


def test_a_result_that_is_too_bad_is_not_written(source, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(QualityError) as caught:
        quick(source, "quant(bits=8)", SAMPLES, out, 1e-6, strict=True)
    assert caught.value.exit_code == 6
    assert left(tmp_path) == {"in.onnx"}


def test_without_strict_it_is_written_with_a_warning(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, "quant(bits=8)", SAMPLES, out, 1e-6).report
    assert out.exists()
    assert any("above" in warning for warning in report.warnings)


@pytest.mark.parametrize("number", [float("nan"), -0.1])
def test_an_error_that_is_no_number_is_refused(source, tmp_path, number):
    with pytest.raises(CompressError):
        quick(source, "quant(bits=8)", SAMPLES, tmp_path / "out.onnx", number, strict=True)
    assert left(tmp_path) == {"in.onnx"}


def test_drawn_inputs_are_warned_about(source):
    report = quick(source, "quant(bits=8)").report
    assert report.drawn
    assert any("--calib" in warning for warning in report.warnings)


def test_a_run_is_timed_on_request(source, tmp_path):
    report = compress(source, "quant(bits=8)", SAMPLES, tmp_path / "out.onnx").report
    assert report.timing is not None
    assert report.speed > 0
    assert report.timing.spread[1][0] <= report.speed <= report.timing.spread[1][1]


# -------------------------------------------------------------------------------- places to write


def test_the_output_may_be_the_input(source, tmp_path):
    before, reference = source.stat().st_size, run(source, SAMPLES)[0]
    quick(source, "quant(bits=8)", SAMPLES, source)
    assert source.stat().st_size < before
    assert left(tmp_path) == {"in.onnx"}
    assert np.linalg.norm(run(source, SAMPLES)[0] - reference) < 0.05 * np.linalg.norm(reference)


def test_the_output_may_be_the_input_that_stays(tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(nothing_to_do().SerializeToString())
    before = path.read_bytes()
    assert quick(path, out=path).report.unchanged
    assert path.read_bytes() == before
    assert left(tmp_path) == {"in.onnx"}


@pytest.mark.parametrize("make", [two_layers, nothing_to_do])
@pytest.mark.parametrize("place", ["missing/out.onnx", "in.onnx/out.onnx", "folder"])
def test_a_place_that_cannot_be_written_is_refused_and_left_clean(tmp_path, make, place):
    path = tmp_path / "in.onnx"
    path.write_bytes(make().SerializeToString())
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        quick(path, "quant(bits=8)", out=tmp_path / place)
    assert caught.value.hint
    assert left(tmp_path) == {"in.onnx", "folder"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused(source, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    with pytest.raises(OutputError):
        quick(source, "quant(bits=8)", out=locked / "out.onnx")
    assert not list(locked.iterdir())


@pytest.mark.parametrize("make", [two_layers, nothing_to_do])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, make):
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    path.write_bytes(make().SerializeToString())
    out.write_bytes(b"what was there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError):
        quick(path, "quant(bits=8)", out=out)
    assert left(tmp_path) == {"in.onnx", "out.onnx"}
    assert out.read_bytes() == b"what was there"


# ------------------------------------------------------------------------------- external data


def external(folder: Path, proto: ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    path, copy = folder / "in.onnx", ModelProto()
    copy.CopyFrom(proto)  # which onnx would change
    onnx.save_model(copy, path, save_as_external_data=True, location="in.weights", size_threshold=0)
    return path


def total(folder: Path, *skip: str) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in skip)


def test_a_model_with_external_data_is_compressed(tmp_path):
    proto = two_layers()
    path = external(tmp_path / "a", proto)
    out = tmp_path / "b" / "out.onnx"
    out.parent.mkdir()
    before = total(path.parent)
    report = quick(path, "quant(bits=8)", SAMPLES, out).report
    assert report.bytes_before == before
    assert total(out.parent) == report.bytes_after < before
    shutil.rmtree(path.parent)
    (r,), (y,) = run(proto, SAMPLES), run(out, SAMPLES)
    assert np.linalg.norm(y - r) < 0.05 * np.linalg.norm(r)


def test_a_model_with_external_data_that_cannot_be_compressed_does_not_grow(tmp_path):
    names = [f"w{number}" for number in range(8)]
    lines = "  ".join(f"y{number} = Add (x, {name})" for number, name in enumerate(names))
    outs = ", ".join(f"float[1200] y{number}" for number in range(8))
    proto = build(
        f"g (float[1200] x) => ({outs}) {{ {lines} }}", **{name: draw(1200) for name in names}
    )
    path = external(tmp_path / "a", proto)
    out = tmp_path / "b" / "out.onnx"
    out.parent.mkdir()
    report = quick(path, out=out).report
    assert report.unchanged
    feed = {"x": draw(1200)}
    assert all(np.array_equal(a, b) for a, b in zip(run(path, feed), run(out, feed), strict=True))
    assert total(out.parent) <= total(path.parent)
    assert report.bytes_after == total(out.parent)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_missing_external_data_are_a_model_error(tmp_path, damage):
    path = external(tmp_path / "a", two_layers())
    data = path.with_name("in.weights")
    data.unlink() if damage == "missing" else data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError) as caught:
        quick(path, "quant(bits=8)")
    assert caught.value.hint


# -------------------------------------------------------------------------------- calibration


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
    result = quick(digits, "quant(bits=8)", {"image": images, "__labels__": labels})
    accuracy = result.report.accuracy
    assert accuracy is not None
    assert accuracy.samples == 40
    assert accuracy.before > 0.9
    for model, share in ((digits, accuracy.before), (result.model, accuracy.after)):
        (scores,) = run(model, {"image": images[1::2]})
        assert (scores.argmax(axis=1) == labels[1::2]).mean() == pytest.approx(share)


# ---------------------------------------------------------------------------------- odd models


def test_a_model_whose_outputs_are_random_is_not_blamed_on_a_pass():
    proto = build(
        "g (float[N,96] x) => (float[N,64] y, float[?,?] z) "
        "{ i = Identity (x)  y = MatMul (i, W)  z = RandomNormalLike (y) }",
        W=draw(96, 64),
    )
    result = quick(proto, "fold", SAMPLES)
    assert len(result.model.graph.node) <= 3


def test_a_model_that_gives_nan_by_itself_may_go_on_doing_so():
    proto = build(
        "g (float[N,96] x) => (float[N,64] y) { l = Log (x)  i = Identity (x)  h = MatMul (i, W)"
        "  r = Reshape (l, flat)  s = ReduceMax (r)  k = Mul (h, zero)  n = Sqrt (minus)"
        "  p = Pad (k, pads)  c = Slice (h, z1, z2, axis)  a = Mul (c, n)"
        "  b = Slice (h, z2, z64, axis)  y = Concat <axis=1> (a, b) }",
        W=draw(96, 64),
        minus=np.float32([-1]),
        flat=np.int64([-1]),
        zero=np.float32([0]),
        pads=np.int64([0, 0, 0, 0]),
        z1=np.int64([0]),
        z2=np.int64([2]),
        z64=np.int64([64]),
        axis=np.int64([1]),
    )
    result = quick(proto, "quant(bits=8)", SAMPLES)
    (out,) = run(result.model, SAMPLES)
    assert np.isnan(out[:, :2]).all()
    assert np.isfinite(out[:, 2:]).all()
    assert 0 < result.report.error < 0.1


def test_a_model_without_inputs_is_compressed():
    proto = build("g () => (float[64,64] y) { y = MatMul (W, V) }", W=draw(64, 64), V=draw(64, 64))
    report = quick(proto, "quant(bits=8)", fold=False).report
    assert report.bytes_after < report.bytes_before
    assert report.error < 0.05


def test_a_model_that_needs_real_inputs_asks_for_them():
    proto = build(
        "g (float[N,M] x) => (float[?,?] y) { y = Reshape (x, s) }", s=np.int64([1237, 7])
    )
    with pytest.raises(CalibrationError) as caught:
        quick(proto)
    assert "--calib" in caught.value.hint


def test_a_model_that_does_not_load_is_a_model_error(tmp_path):
    proto = build("g (float[N,4] x) => (float[N,4] y) { y = Nonsense (x) }")
    with pytest.raises(ModelError):
        quick(proto, out=tmp_path / "out.onnx")
    assert not left(tmp_path)


def test_without_fold_there_is_no_clean_up():
    proto = two_layers()
    with_fold = quick(proto, "quant(bits=16)").model
    without = quick(proto, "quant(bits=16)", fold=False).model
    count = lambda model: sum(node.op_type == "Identity" for node in model.graph.node)  # noqa: E731
    assert (count(with_fold), count(without)) == (0, 1)


def test_documentation_and_metadata_stay(tmp_path):
    proto = two_layers()
    proto.producer_name, proto.model_version, proto.domain = "somebody", 7, "example.org"
    proto.metadata_props.add(key="author", value="me")
    proto.graph.doc_string = "two layers"
    result = quick(proto, "quant(bits=8)").model
    assert (result.producer_name, result.model_version, result.domain) == (
        "somebody",
        7,
        "example.org",
    )
    assert [(p.key, p.value) for p in result.metadata_props] == [("author", "me")]
    assert result.graph.doc_string == "two layers"
    assert result.graph.name == proto.graph.name
