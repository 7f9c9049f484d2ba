"""Writing: over the file that was read, and all of a model or nothing."""

import os
import stat

import numpy as np
import pytest

from onnx_compress.ir.errors import LoadError, OutputError
from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.ir.graph.staged import Staged

from graphs import WIDE, product, run, weight

# ----------------------------------------------------------------------------------- in place


def test_a_model_may_be_saved_over_the_file_it_came_from(tmp_path):
    path = tmp_path / "m.onnx"
    for external_data in (False, True, False, True):
        if not path.exists():
            save(from_proto(product()), path, external=external_data)
        view = load(path)
        w = next(value for value in view.graph.initializers if value.name == "w")
        new = view.constant(w) * 2
        view.set_constant(w, new)
        save(view, path, external=external_data)
        np.testing.assert_array_equal(view.constant(w), new)
        again = load(path)
        w, v = again.graph.initializers
        np.testing.assert_array_equal(again.constant(w), new)
        np.testing.assert_array_equal(again.constant(v), weight(1))


def test_a_loaded_model_survives_that_its_file_is_removed_and_replaced(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(product().SerializeToString())
    view = load(path)
    path.unlink()
    path.write_bytes(bytes(100_000))
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(view, x=x), run(product(), x=x))


def test_a_file_cut_short_while_in_use_is_an_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(product().SerializeToString())
    view = load(path)
    os.truncate(path, 5000)
    with pytest.raises(LoadError, match="cut short"):
        save(view, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


# ------------------------------------------------------------------------------------- staged


def test_nothing_appears_before_commit_and_nothing_is_left_after(tmp_path):
    view = from_proto(product())
    for external_data in (False, True):
        target = tmp_path / "out.onnx"
        with Staged(view, target, external_data) as staged:
            assert not target.exists()
            x = np.ones((1, WIDE), np.float32)
            np.testing.assert_array_equal(run(staged.path, x=x), run(view, x=x))
        assert os.listdir(tmp_path) == []
        with Staged(view, target, external_data) as staged:
            staged.commit()
        names = sorted(os.listdir(tmp_path))
        assert names[0] == "out.onnx"
        assert len(names) == 1 + external_data
        for name in names:
            (tmp_path / name).unlink()


def test_an_error_while_staged_cleans_up(tmp_path):
    with pytest.raises(KeyError), Staged(from_proto(product()), tmp_path / "m.onnx", True):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_output_errors(tmp_path):
    view = from_proto(product())
    taken = tmp_path / "taken.onnx"
    taken.mkdir()
    for path in (tmp_path / "none" / "m.onnx", taken, tmp_path / ("n" * 300)):
        with pytest.raises(OutputError) as caught:
            save(view, path)
        assert caught.value.hint
    assert os.listdir(tmp_path) == ["taken.onnx"]


def test_files_are_written_with_the_permissions_that_new_files_have(tmp_path):
    save(from_proto(product()), tmp_path / "m.onnx")
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m.onnx", "plain")}
    assert len(modes) == 1


def test_a_relative_path_without_a_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(from_proto(product()), "m.onnx", external=True)
    monkeypatch.chdir("/")
    monkeypatch.chdir(tmp_path)
    assert to_proto(load("m.onnx")) == product()
