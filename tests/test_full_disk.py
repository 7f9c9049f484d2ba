"""A full disk: exit code 7, nothing left, nothing harmed."""

import builtins
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_compress import compress, finish
from onnx_compress.ir.errors import OutputError
from onnx_compress.ir.graph import from_proto, load, save
from onnx_compress.ir.runtime import session

from graphs import WIDE
from places import assert_refused, command, contents, prepare, version, which

resource = pytest.importorskip("resource", reason="limits of POSIX")


# -------------------------------------------------------------------- every step fails in turn


class Full:
    """A file that takes half of what the disk has no room for."""

    def __init__(self, file, step: Callable[[], None]) -> None:
        self._file, self._step = file, step

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data) -> int:
        try:
            self._step()
        except OSError:
            self._file.write(memoryview(data)[: len(data) // 2])
            raise
        return self._file.write(data)


@contextlib.contextmanager
def full_from(at: int | None) -> Iterator[list[str]]:
    """The disk is full at one step that writes, counted from 0. Gives the steps that were made."""
    made: list[str] = []

    def step(name: str) -> None:
        made.append(name)
        if len(made) - 1 == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def stepwise(call, name: str):
        def stepped(*arguments, **options):
            step(name)
            return call(*arguments, **options)

        return stepped

    def opened(call):
        def stepped(file, mode="r", *arguments, **options):
            if not set(mode) & set("wax+"):
                return call(file, mode, *arguments, **options)
            step("open")
            return Full(call(file, mode, *arguments, **options), lambda: step("write"))

        return stepped

    def temporary(**options):
        step("temporary")
        return Full(file(**options), lambda: step("scratch"))

    file = tempfile.TemporaryFile
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "fsync", "sendfile"):
            if hasattr(os, name):
                patch.setattr(os, name, stepwise(getattr(os, name), name))
        patch.setattr(builtins, "open", opened(open))
        patch.setattr(tempfile, "TemporaryFile", temporary)
        yield made


TARGET = """description = "a processor that likes to decode"
features = ["none"]
measured = false
channel_multiple = 8
saturates = false
maximum_opset = 0
[speed.dynamic]
product = [[64, 64, 0.5, 0.5, 0.5]]
[speed.dequantize]
product = [[64, 64, 2.0, 2.0, 2.0]]
"""


def quantized(folder: Path) -> None:
    compress(folder / "in.onnx", "quant(bits=8)", out=folder / "out.onnx", measure=False)


def profiled(folder: Path) -> None:
    """Quantized for a target where the runtime is asked what it fuses."""
    target = str(folder.parent / "target.toml")
    compress(
        folder / "in.onnx", "quant(bits=8)", None, folder / "out.onnx", target=target, measure=False
    )


def copied(folder: Path) -> None:
    assert compress(
        folder / "in.onnx", "fold", out=folder / "out.onnx", measure=False
    ).report.unchanged


def saved(folder: Path) -> None:
    save(load(folder / "in.onnx"), folder / "out.onnx", external=True)


def saved_again(folder: Path) -> None:
    """What is there already: the data file has the name of the old one."""
    save(load(folder / "out.onnx"), folder / "out.onnx", external=True)


WAYS = {
    quantized: {"temporary", "scratch", "mkdir", "rename", "open", "write", "fsync", "replace"},
    profiled: {"temporary", "scratch", "mkdir", "rename", "open", "write", "fsync", "replace"},
    copied: {"temporary", "scratch", "mkdir", "rename", "open", "fsync", "replace"},
    saved: {"mkdir", "rename", "open", "write", "fsync", "replace"},
    saved_again: {"mkdir", "rename", "open", "write", "fsync", "replace"},
}


@pytest.mark.parametrize("external", [False, True], ids=["single", "external"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_disk_that_is_full_at_any_step(tmp_path, monkeypatch, way, external):
    """The error is an OutputError, and everything is as before; or it does not matter at all."""
    (tmp_path / "target.toml").write_text(TARGET)
    if external:
        monkeypatch.setattr(finish, "_SINGLE", 0)  # results keep their data beside them
        monkeypatch.setattr(session, "_IN_MEMORY", 0)  # models go to the runtime through files
    prepare(tmp_path / "all", external)
    with full_from(None) as steps:
        way(tmp_path / "all")
    wanted = WAYS[way] if external else WAYS[way] - {"rename"}  # of a data file, to its digest
    assert wanted <= set(steps) | {"sendfile"}
    new = contents(tmp_path / "all")
    refused = set()
    for at, step in enumerate(steps):
        folder = tmp_path / str(at)
        prepare(folder, external)
        before = contents(folder)
        with full_from(at) as made:
            error = None
            try:
                way(folder)
            except OutputError as caught:
                error = caught
                refused.add(made[at])
        assert error is None or (error.hint and os.strerror(errno.ENOSPC) in str(error))
        assert contents(folder) == (before if error else new), (at, step)
    assert refused >= wanted


# ------------------------------------------------------------------------ limits of the system


def limited(size: int) -> Callable[[], None]:
    """No file may grow above this."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("passes", "limit"),
    [
        ("quant(bits=8)", 0),  # no temporary folder is usable
        ("quant(bits=8)", 600),  # outputs of the original do not fit
        ("quant(bits=8)", 5000),  # codes of the second weight do not fit
        ("quant(bits=8)", 8500),  # the result does not
        ("fold", 20_000),  # the copy of the input does not
    ],
)
def test_the_command_where_files_cannot_grow(tmp_path, passes, limit):
    prepare(tmp_path)
    before = contents(tmp_path)
    arguments = ["in.onnx", "out.onnx", "--quiet", "--passes", passes]
    assert_refused(command(tmp_path, *arguments, before=limited(limit)))
    assert contents(tmp_path) == before
    done = command(tmp_path, *arguments, before=limited(40_000))
    assert done == (0, [], "")


SAVES = """
import json, os, resource, sys
from onnx_compress.ir.errors import OutputError
from onnx_compress.ir.graph import load, save
for limit in map(int, sys.argv[2:]):
    model = load("in.onnx")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(model, "out.onnx", external=sys.argv[1] == "external")
        said = ""
    except OutputError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(json.dumps([said, sorted(os.listdir())]))
"""


@pytest.mark.parametrize("kind", ["single", "external"])
def test_saving_where_files_cannot_grow(tmp_path, kind):
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("files cannot grow in these tests anyway")
    prepare(tmp_path)
    limits = ["0", "100", "4096", "16384", "32000", "32768", "40000"]
    done = subprocess.run(
        [sys.executable, "-c", SAVES, kind, *limits],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    *failed, last = [json.loads(line) for line in done.stdout.splitlines()]
    if kind == "external":  # all data fit below the last limit but one
        assert failed.pop()[0] == ""
    for said, names in failed:
        assert os.strerror(errno.EFBIG) in said
        assert names == ["in.onnx", "out.onnx"]
    assert last[0] == ""
    assert which(tmp_path / "out.onnx") == 0
    assert len(contents(tmp_path)) == 2 + (kind == "external")


def test_a_report_that_does_not_fit_is_not_left_half(tmp_path):
    graph = onnx.parser.parse_graph("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "a.onnx")
    done = command(tmp_path, "a.onnx", "b.onnx", "--report", "r.json", before=limited(1000))
    assert_refused(done)
    assert "r.json" in done[1][0]
    assert set(contents(tmp_path)) == {"a.onnx", "b.onnx"}


# --------------------------------------------------------------------------------- small disks


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("external", [False, True], ids=["single", "external"])
def test_saving_to_a_full_disk(disk, external):
    path, new = disk / "m.onnx", from_proto(version(0))
    save(from_proto(version(1)), path, external)
    before = contents(disk)
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        save(new, path, external)
    assert contents(disk) == before
    assert which(path) == 1
    for name in before:
        (disk / name).unlink()
    save(new, path, external)
    assert which(path) == 0


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
def test_the_command_with_a_full_disk_for_the_result(disk, tmp_path, passes):
    prepare(tmp_path / "in")
    source, out = str(tmp_path / "in" / "in.onnx"), disk / "out.onnx"
    shutil.copy(tmp_path / "in" / "out.onnx", out)
    fill(disk)
    before = contents(tmp_path)
    assert_refused(command(tmp_path, source, str(out), "--passes", passes))
    assert contents(tmp_path) == before
    assert which(out) == 1


@pytest.mark.parametrize("passes", ["quant(bits=8)", "fold"])
def test_the_command_with_a_full_disk_for_temporary_files(disk, tmp_path, passes):
    prepare(tmp_path / "in")
    (disk / "room").write_bytes(bytes(12 << 10))  # enough to find that the folder is usable
    fill(disk)
    (disk / "room").unlink()
    np.savez(tmp_path / "data.npz", x=np.ones((40, 8, WIDE), np.float32))
    before = contents(tmp_path / "in")
    done = command(
        tmp_path / "in", "in.onnx", "out.onnx", "--passes", passes, "--calib", "../data.npz",
        TMPDIR=str(disk),
    )  # fmt: skip
    assert_refused(done)
    assert "TMPDIR" in done[1][1]
    assert contents(tmp_path / "in") == before
    assert not list(disk.glob("onnx-compress*"))


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
