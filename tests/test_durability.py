"""Kills at any moment and two processes at once: a model is there whole, or not at all.

A server process imports once and forks a writer for each kill, so that a kill takes milliseconds.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnx_compress.cli import main
from onnx_compress.ir.graph import from_proto, load, save

from places import assert_tidy, names, version, which

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, signals and locks of POSIX")

KINDS = ("single", "external")
# Reads lines "MODE KIND OUT STEP"; forks a writer for each, says its id, then how it ended.
SERVER = """
import os, signal, sys
from onnx_compress.cli import main
from onnx_compress.ir.graph import external, load, save
from onnx_compress.ir.graph.staged import Staged
import onnxruntime

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "fcntl.flock"}
left = 0

def step(event, _):
    global left
    if event in STEPS:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def stepwise(parts, storage):
    for chunk in chunks(parts, storage):
        step("open", None)
        yield chunk

def write(kind, out, version):
    if kind == "command":
        arguments = [version, out, "--passes", "quant(bits=8)", "--quiet"]
        assert main(arguments) == 0
    else:
        save(load(version), out, external=kind == "external")

def work(mode, kind, out, steps):
    global left
    if mode == "hold":
        staged = Staged(load("1.onnx"), out, external=True)
        print("held", flush=True)
        signal.pause()
    if mode == "steps":
        left = int(steps)
        if kind == "command":
            STEPS.discard("open")
        sys.addaudithook(step)
        write(kind, out, "1.onnx")
    if mode == "loop":
        for number in range(int(steps)):
            write(kind, out, f"{1 - number % 2}.onnx")
    if mode == "pair":
        other = os.fork()
        write(kind, out, "0.onnx" if other else "1.onnx")
        assert not other or os.waitpid(other, 0)[1] == 0

chunks, external.chunks = external.chunks, stepwise
for line in sys.stdin:
    child = os.fork()
    if not child:
        status = 1
        try:
            print(os.getpid(), flush=True)
            work(*line.split())
            status = 0
        finally:
            os._exit(status)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Writers:
    """Forks writers in a folder that holds two versions of a model, 0.onnx and 1.onnx."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in (0, 1):
            save(from_proto(version(number)), folder / f"{number}.onnx")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            text=True,
        )

    def start(self, mode: str, kind: str, out: Path, steps: int = 0) -> int:
        self.process.stdin.write(f"{mode} {kind} {out} {steps}\n")
        self.process.stdin.flush()
        return int(self.said())

    def said(self) -> str:
        line = self.process.stdout.readline()
        assert line, "the server ended"
        return line.strip()

    def ended(self) -> int:
        word, status = self.said().split()
        assert word == "ended"
        return int(status)

    def kill(self, writer: int) -> None:
        os.kill(writer, signal.SIGKILL)
        assert self.ended() == -signal.SIGKILL


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Writers]:
    writers = Writers(tmp_path_factory.mktemp("versions"))
    yield writers
    writers.process.stdin.close()
    writers.process.stdout.close()
    assert writers.process.wait() == 0


# -------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_kill_before_any_step_leaves_the_old_model_or_the_new_one(server, tmp_path, kind, before):
    """Each step of one save in turn: folders, files, every piece written, renames, removals."""
    out = tmp_path / "m.onnx"
    seen, steps = set(), 0
    while True:
        if before == "nothing":
            out.unlink(missing_ok=True)
        else:
            save(load(server.folder / "0.onnx"), out, external=kind == "external")
        steps += 1
        server.start("steps", kind, out, steps)
        ended = server.ended()
        seen.add(which(out) if out.exists() else None)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert steps > 8
    assert seen == ({None, 1} if before == "nothing" else {0, 1})


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_save_removes_what_killed_ones_left(server, tmp_path, kind):
    out = tmp_path / "m.onnx"
    steps = left = 0
    while True:
        steps += 1
        server.start("steps", kind, out, steps)
        if server.ended() == 0:
            break
        left = max(left, len(names(tmp_path)))
        save(load(server.folder / "0.onnx"), out, external=kind == "external")
        assert_tidy(tmp_path, kind)
    assert left > 1


def kills(server: Writers, out: Path, kind: str, moments: int, longest: float) -> Iterator[bool]:
    """Kill many writers at random moments; whether the output is there after each."""
    draw = random.Random(0)
    for _ in range(moments):
        if draw.random() < 0.2:
            out.unlink(missing_ok=True)
        before = out.exists()
        writer = server.start("loop", kind, out, 10**9)
        time.sleep(draw.uniform(0, longest))
        server.kill(writer)
        assert out.exists() or not before
        yield out.exists()


MOMENTS = [20, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_a_random_moment_leaves_a_complete_model(server, tmp_path, kind, moments):
    out = tmp_path / "m.onnx"
    seen = {which(out) for there in kills(server, out, kind, moments, 0.05) if there}
    assert 1 in seen
    save(load(server.folder / "0.onnx"), out, external=kind == "external")
    assert which(out) == 0
    assert_tidy(tmp_path, kind)


def commanded(server: Writers, out: Path, number: int) -> bytes:
    arguments = [str(server.folder / f"{number}.onnx"), str(out), "--quiet"]
    assert main([*arguments, "--passes", "quant(bits=8)"]) == 0
    return out.read_bytes()


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_kill_of_the_command_at_a_random_moment(server, tmp_path, moments):
    out = tmp_path / "m.onnx"
    results = {commanded(server, out, number) for number in (0, 1)}
    assert len(results) == 2
    seen = {out.read_bytes() for there in kills(server, out, "command", moments, 0.2) if there}
    assert seen
    assert seen <= results


def test_a_kill_of_the_command_before_any_step(server, tmp_path):
    out, steps = tmp_path / "m.onnx", 0
    results = [commanded(server, out, number) for number in (1, 0)]
    while out.read_bytes() == results[1]:
        steps += 1
        server.start("steps", "command", out, steps)
        assert server.ended() in (0, -signal.SIGKILL)
    assert steps > 4
    assert out.read_bytes() == results[0]
    commanded(server, out, 0)
    assert names(tmp_path) == ["m.onnx"]


# ------------------------------------------------------------------------- several processes


def test_a_folder_that_a_living_process_writes_to_is_left_alone(server, tmp_path):
    out = tmp_path / "m.onnx"
    writer = server.start("hold", "external", out)
    assert server.said() == "held"
    (hidden,) = names(tmp_path)
    held = names(tmp_path / hidden)
    for kind in KINDS:
        save(load(server.folder / "0.onnx"), out, external=kind == "external")
        assert names(tmp_path / hidden) == held
        assert len(held) == 2
    server.kill(writer)
    save(load(server.folder / "0.onnx"), out)
    assert names(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_that_write_the_same_output(server, tmp_path, kind):
    out = tmp_path / "m.onnx"
    for _ in range(20):
        server.start("pair", kind, out)
        assert server.ended() == 0
        assert which(out) in (0, 1)
    save(load(server.folder / "0.onnx"), out, external=kind == "external")
    assert_tidy(tmp_path, kind)
