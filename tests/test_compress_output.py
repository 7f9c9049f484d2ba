"""compress: the places it writes to, what it leaves there, and models with data beside them."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnx_compress.ir.errors import ModelError, OutputError

from models_by_text import (
    SAMPLES,
    build,
    draw,
    left,
    nothing_to_do,
    quick,
    run,
    same_numbers_in_any_order,  # noqa: F401
    source_file,  # noqa: F401
    two_layers,
)

# ------------------------------------------------------------------------------ places to write


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


# -------------------------------------------------------------------------------- external data


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
