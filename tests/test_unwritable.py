"""Places that cannot be written, or no longer: exit code 7, nothing left, nothing harmed."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnx_compress import compress
from onnx_compress.cli import main
from onnx_compress.ir.errors import OutputError
from onnx_compress.ir.graph import from_proto, save
from onnx_compress.passes import Event

from places import Done, assert_refused, contents, prepare, version, which

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")

# -------------------------------------------------------------------------------- permissions

# One run before privileges are dropped imports everything: Python may be there for root alone.
NOBODY = """
import os, sys, tempfile
from importlib.metadata import PackageNotFoundError, version
from onnx_compress.cli import main
folder, source, out, *options = sys.argv[1:]
os.chdir(folder)
if os.geteuid() == 0:
    with tempfile.TemporaryDirectory() as aside:
        assert main([source, os.path.join(aside, "out.onnx"), *options, "--quiet"]) == 0
    try:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        version("onnx-compress")
    except (OSError, PackageNotFoundError):
        sys.exit(99)
sys.exit(main([source, out, *options]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike those of pytest."""
    place = Path(tempfile.gettempdir()).resolve()
    if place.stat().st_mode & 3 != 3 or not all(path.stat().st_mode & 1 for path in place.parents):
        pytest.skip("temporary files are for one user alone here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def as_nobody(folder: Path, *arguments: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(folder), *arguments], capture_output=True, text=True
    )
    if done.returncode == 99:
        pytest.skip("root may not become somebody else here, or Python is for root alone")
    return done.returncode, done.stderr.splitlines(), done.stdout


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
def test_a_folder_that_is_read_only(open_folder, passes):
    prepare(open_folder)
    before = contents(open_folder)
    open_folder.chmod(0o555)
    for out in ("out.onnx", "new.onnx", "in.onnx"):
        assert_refused(as_nobody(open_folder, "in.onnx", out, "--passes", passes))
    assert contents(open_folder) == before


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
def test_a_file_that_is_read_only_is_replaced_whole_or_not_at_all(open_folder, passes):
    prepare(open_folder)
    open_folder.chmod(0o777)
    (open_folder / "out.onnx").chmod(0o444)
    before = contents(open_folder)
    done = as_nobody(open_folder, "in.onnx", "out.onnx", "--quiet", "--passes", passes)
    if done[0]:
        assert_refused(done)
        assert contents(open_folder) == before
    else:
        main([str(open_folder / "in.onnx"), str(open_folder / "o"), "--quiet", "--passes", passes])
        after = contents(open_folder)
        assert after["out.onnx"] == after.pop("o")
        assert set(after) == set(before)


def test_an_input_that_is_read_only_is_no_obstacle(open_folder):
    prepare(open_folder)
    (open_folder / "in.onnx").chmod(0o444)
    results = open_folder / "results"
    results.mkdir()
    results.chmod(0o777)
    open_folder.chmod(0o555)
    done = as_nobody(open_folder, "in.onnx", "results/out.onnx", "--passes", "fold", "--quiet")
    assert done == (0, [], "")
    assert which(results / "out.onnx") == 0


# ---------------------------------------------------------------------------- gone meanwhile


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
@pytest.mark.parametrize("moment", ["original", "result"])
def test_a_folder_that_vanishes(tmp_path, passes, moment):
    prepare(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()

    def vanish(event: Event) -> None:
        if event.text == moment:
            out.rmdir()

    source = tmp_path / "in" / "in.onnx"
    with pytest.raises(OutputError):
        compress(source, passes, out=out / "m.onnx", measure=False, on_event=vanish)
    assert not out.exists()
    assert set(contents(tmp_path)) == {"in", "in/in.onnx", "in/out.onnx"}


@pytest.mark.parametrize("external", [False, True], ids=["single", "external"])
def test_a_folder_that_vanishes_between_writing_and_renaming(tmp_path, monkeypatch, external):
    model, folder = from_proto(version(0)), tmp_path / "folder"
    folder.mkdir()
    replace = os.replace

    def vanish(*arguments) -> None:
        shutil.rmtree(folder)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", vanish)
    with pytest.raises(OutputError):
        save(model, folder / "m.onnx", external)
    assert contents(tmp_path) == {}


def test_temporary_files_whose_folder_vanishes(tmp_path, monkeypatch):
    prepare(tmp_path / "in")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def vanish(event: Event) -> None:
        if event.text == "original":
            scratch.rmdir()

    before = contents(tmp_path / "in")
    with pytest.raises(OutputError, match="temporary"):
        compress(
            tmp_path / "in" / "in.onnx",
            "quant(bits=8)",
            out=tmp_path / "in" / "out.onnx",
            measure=False,
            on_event=vanish,
        )
    assert contents(tmp_path / "in") == before


def test_no_usable_folder_for_temporary_files_at_all(tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    source, out = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    assert main([source, out, "--passes", "quant(bits=8)"]) == 7
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert contents(tmp_path) == before
