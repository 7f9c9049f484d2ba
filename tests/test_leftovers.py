"""What is left in a folder, two writers in turn, and an output that is the input."""

import itertools
import os
import shutil
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from onnx_compress import compress
from onnx_compress.cli import main
from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import from_proto, load, save
from onnx_compress.ir.graph.staged import Staged

from graphs import WIDE, run
from places import assert_tidy, names, version, which

KINDS = ("single", "external")
X = np.ones((2, WIDE), np.float32)

# ---------------------------------------------------------------------------------- leftovers


def test_only_folders_of_our_own_are_leftovers(tmp_path):
    kept = [".m.onnx.mybackup.tmp", ".other.onnx.0123abcd.tmp", ".m.onnx.0123abcd", "m.onnx.tmp"]
    for name in (*kept, ".m.onnx.0123abcd.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    save(from_proto(version(0)), tmp_path / "m.onnx")
    assert names(tmp_path) == sorted([*kept, "m.onnx"])


def test_names_with_signs_of_patterns_are_meant_literally(tmp_path):
    out, other = tmp_path / "[ab]*.onnx", tmp_path / "a-other.onnx"
    for path in (other, out):
        save(from_proto(version(0)), path, external=True)
    (tmp_path / ".[ab]*.onnx.0123abcd.tmp").mkdir()
    (tmp_path / ".a-other.onnx.0123abcd.tmp").mkdir()
    save(from_proto(version(1)), out, external=True)
    assert (which(out), which(other)) == (1, 0)
    assert [name for name in names(tmp_path) if name.startswith(".")] == [
        ".a-other.onnx.0123abcd.tmp"
    ]
    assert len(names(tmp_path)) == 5


def test_data_that_another_model_refers_to_stay_as_long_as_it_does(tmp_path):
    out, other = tmp_path / "m.onnx", tmp_path / "other.onnx"
    save(from_proto(version(0)), out, external=True)
    shutil.copy(out, other)
    for number, external in ((1, True), (1, False), (1, True)):
        save(from_proto(version(number)), out, external)
        assert (which(out), which(other)) == (1, 0)
    assert len(names(tmp_path)) == 4
    other.unlink()
    save(from_proto(version(1)), out, external=True)
    assert_tidy(tmp_path, "external")


def test_a_mention_is_found_wherever_it_stands_in_a_file(tmp_path):
    """The folder's other models are read in pieces of four megabytes."""
    out, other = tmp_path / "m.onnx", tmp_path / "other.onnx"
    save(from_proto(version(0)), out, external=True)
    data = next(tmp_path.glob("*.data")).name.encode()
    for before in (0, 1, len(data) // 2, len(data) - 1, len(data)):
        text = b"." * ((1 << 22) - before) + data
        other.write_bytes(text)
        save(from_proto(version(1)), out)
        assert (tmp_path / data.decode()).exists(), before
        save(from_proto(version(0)), out, external=True)


def test_data_of_another_name_are_left_alone(tmp_path):
    """A file that only begins like one of ours, and that of a model whose name begins like ours."""
    out, longer = tmp_path / "m.onnx", tmp_path / "m.onnx.onnx"
    save(from_proto(version(1)), longer, external=True)
    strangers = ["m.onnx.data", "m.onnx.0123456789abcdef.data.old", "m.onnx.0123456789ABCDEF.data"]
    for name in strangers:
        (tmp_path / name).touch()
    save(from_proto(version(0)), out, external=True)
    save(from_proto(version(0)), out)
    assert which(longer) == 1
    assert set(strangers) < set(names(tmp_path))
    assert len(names(tmp_path)) == len(strangers) + 3


# ------------------------------------------------------------------------------- two writers


@pytest.mark.parametrize("kinds", [(a, b) for a in KINDS for b in KINDS], ids="-".join)
@pytest.mark.parametrize("before", [None, 0, 1])
def test_one_writer_between_any_two_steps_of_another(tmp_path, monkeypatch, kinds, before):
    """The second one commits before the first, second, ... rename or removal of the first."""
    for at in range(4):
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "m.onnx"
        if before is not None:
            save(from_proto(version(before)), out, external=True)
        first, second = (
            Staged(from_proto(version(number)), out, external=kind == "external")
            for number, kind in enumerate(kinds)
        )
        other, steps = Thread(target=second.commit), itertools.count()

        def interrupted(call, steps=steps, other=other, at=at):
            def step(*arguments, **options):
                if next(steps) == at:
                    other.start()
                    other.join(0.3)  # it may have to wait for the first one
                return call(*arguments, **options)

            return step

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(os, name, interrupted(getattr(os, name)))
            first.commit()
            if other.ident is None:
                second.discard()
                assert at > 0
                break
            other.join()
        assert which(out) in (0, 1), at


# --------------------------------------------------------------------- the output is the input


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["itself", "linked folder", "linked file", "relative", "dots"])
def test_the_output_may_be_the_input_however_it_is_written(tmp_path, monkeypatch, kind, way):
    folder = tmp_path / "real"
    folder.mkdir()
    path = folder / "m.onnx"
    save(from_proto(version(0)), path, external=kind == "external")
    (tmp_path / "link").symlink_to(folder)
    (folder / "link.onnx").symlink_to("m.onnx")
    monkeypatch.chdir(folder)
    out = {
        "itself": path,
        "linked folder": tmp_path / "link" / "m.onnx",
        "linked file": folder / "link.onnx",
        "relative": Path("m.onnx"),
        "dots": folder / ".." / "real" / "m.onnx",
    }[way]
    reference = run(path, x=X)[0]
    early = load(path)
    result = compress(path, "quant(bits=8)", out=out, measure=False)
    assert not result.report.unchanged
    for written in (out, path):
        (y,) = run(written, x=X)
        assert np.linalg.norm(y - reference) < 0.05 * np.linalg.norm(reference)
    np.testing.assert_array_equal(run(early, x=X)[0], reference)
    save(early, out, external=kind == "external")
    assert which(out) == 0
    run(path, x=X)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_may_write_over_its_input(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    save(from_proto(version(0)), "m.onnx", external=kind == "external")
    (reference,) = run(tmp_path / "m.onnx", x=X)
    for passes in ("quant(bits=8)", "quant(bits=8)", "fold"):  # the later ones change nothing
        assert main(["m.onnx", "./m.onnx", "--quiet", "--passes", passes]) == 0
        (y,) = run(tmp_path / "m.onnx", x=X)
        assert np.linalg.norm(y - reference) < 0.05 * np.linalg.norm(reference)
        assert names(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
def test_an_output_over_the_data_of_the_input_does_not_destroy_it(tmp_path, passes):
    path = tmp_path / "m.onnx"
    save(from_proto(version(0)), path, external=True)
    data = next(tmp_path.glob("*.data"))
    try:
        compress(path, passes, out=data, measure=False)
    except CompressError:
        assert which(path) == 0
        return
    assert which(path) == 0
    run(data, x=X)
