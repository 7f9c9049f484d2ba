"""Pipes, terminals and the keyboard."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from graphs import parsed, weight
from places import command, contents, names
from printed_commands import (
    CONTROL,
    EIGHT,
    folder_with_a_model,  # noqa: F401
    write,
)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["completion", "bash"], ["inspect", "in.onnx"], ["inspect", "in.onnx", "--json"],
     ["passes"], ["in.onnx", "out.onnx", *EIGHT]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_goes_away_is_no_failure(arguments, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    gone, end = os.pipe()
    os.close(gone)
    line = [sys.executable, "-m", "onnx_compress", *arguments]
    done = subprocess.run(line, stdout=end, stderr=subprocess.PIPE)
    os.close(end)
    assert done.stderr == b""
    assert done.returncode == 0


def test_a_pipe_gets_no_escape_codes(place):
    for arguments in (["inspect", "in.onnx"], ["in.onnx", "--dry-run", *EIGHT]):
        code, errors, printed = command(place, *arguments, TERM="xterm-256color")
        assert (code, errors) == (0, [])
        assert not CONTROL.search(printed)


def on_a_terminal(*arguments: str, interrupt_at: str = "") -> tuple[int, str]:
    """Exit code and all that is shown; with SIGINT once a text is."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    line = [sys.executable, "-m", "onnx_compress", *arguments]
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    # what runs in the background of a shell ignores SIGINT, and so would what it starts
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(line, env=environment, preexec_fn=heard, **ends)
    os.close(slave)
    seen, sent = b"", False
    try:
        while data := os.read(master, 1 << 16):
            seen += data
            if interrupt_at and interrupt_at.encode() in seen and not sent:
                time.sleep(0.2)  # into the work that the text announces
                process.send_signal(signal.SIGINT)
                sent = True
    except OSError:  # Linux says so where the other end is closed
        pass
    os.close(master)
    return process.wait(), seen.decode()


def test_bars_are_shown_on_a_terminal_and_gone_at_the_end(place):
    code, seen = on_a_terminal("in.onnx", "out.onnx", *EIGHT)
    assert code == 0
    assert "\x1b[?25l" in seen
    assert "━" in seen
    *_, bars, screen = seen.split("\x1b[?25h")  # the cursor is back
    assert "original" in bars
    assert "smaller" in screen
    assert "━" not in screen
    assert "in.onnx" in names(place)


def test_quiet_is_quiet_on_a_terminal():
    assert on_a_terminal("in.onnx", "out.onnx", *EIGHT, "--quiet") == (0, "")


ENDLESS = """(float[N,64] x) => (float[N,64] y) {
    n = Constant<value = int64 {9000000000000}>()  h = MatMul(x, w)
    y = Loop(n, , h) <body = l (int64 i, bool go, float[N,64] a) => (bool on, float[N,64] b)
        { on = Identity(go)  b = Relu(a) }> }"""


@pytest.mark.parametrize("older", [False, True])
def test_an_interrupt_leaves_no_file(older, place):
    write(parsed(ENDLESS, w=weight()))
    if older:
        (place / "out.onnx").write_bytes(b"older")
    before = contents(place)
    more = ["--report", "r.json", "--save-recipe", "r.toml"]
    code, seen = on_a_terminal("in.onnx", "out.onnx", *EIGHT, *more, interrupt_at="original")
    assert code == 130
    assert "interrupted" in seen.split("\x1b[?25h")[-1]
    assert "Traceback" not in seen
    assert contents(place) == before
