"""inspect, bench, profile, passes, completion; pipes, terminals and the keyboard."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import compare, inspect
from onnx_compress.cli import main
from onnx_compress.cli.commands import COMMANDS
from onnx_compress.ir.graph import from_proto, save
from onnx_compress.passes import Pipeline, registry
from onnx_compress.passes import target as targets

from graphs import BRANCHES, HEAD, LOOP, WIDE, everything, parsed, product, weight
from places import command, contents, names

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EIGHT = ["--passes", "quant(bits=8)"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model, where the commands run; processes that measure loading are few."""
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    monkeypatch.setattr("onnx_compress.comparison._LOADS", 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys, *arguments: str) -> str:
    """What a command prints that ends well and writes nothing."""
    before = contents(Path())
    with contextlib.suppress(SystemExit):  # of --help
        assert main(list(arguments)) == 0
    assert contents(Path()) == before
    found = capsys.readouterr()
    assert found.err == ""
    assert not CONTROL.search(found.out)
    return found.out


def figures(capsys, *arguments: str) -> dict:
    """What it prints with --json, which must be nothing else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(shown(capsys, *arguments, "--json"), parse_constant=refuse)


def fails(capsys, code: int, *arguments: str) -> str:
    """Its two lines."""
    assert main(list(arguments)) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    return error + hint


def write(proto: ModelProto, name: str = "in.onnx") -> str:
    Path(name).write_bytes(proto.SerializeToString())
    return name


# -------------------------------------------------------------------------------------- inspect

BOTH = """(bool c, float[N,64] x) => (float[N,64] y) { y = If (c) <
    then_branch = t () => (float[N,64] r) { r = MatMul(x, w) },
    else_branch = e () => (float[N,64] s) { s = MatMul(x, w) } > }"""
TIED = "(int64[N] i, float[N,64] x) => (float g, float y) { g = Gather(w, i)  y = MatMul(x, w) }"
TEXTS = (
    "(string[N] s, float[N,64] x) => (float y, string[N] t) { y = MatMul(x, w) t = Identity(s) }"
)
FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = l.f(x) } <domain: "l", opset_import: ["" : 17]> f (p)
    => (q) { w = Constant<value = float[2,2] {1, 2, 3, 4}>()  q = MatMul(p, w) }"""


def branches(*stored: np.ndarray) -> ModelProto:
    """Each branch has a weight w of its own."""
    proto = parsed(BOTH)
    for attribute, array in zip(proto.graph.node[0].attribute, stored, strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(array, "w"))
    return proto


def in_a_constant() -> ModelProto:
    proto = parsed("(float[N,64] x) => (float y) { w = Constant()  y = MatMul(x, w) }")
    stored = onnx.helper.make_attribute("value", numpy_helper.from_array(weight()))
    proto.graph.node[0].attribute.append(stored)
    return proto


MODELS = {
    "two products": (product(), ["w", "v"]),
    "everything": (everything(), []),
    "a loop": (parse_model(HEAD + LOOP), []),
    "branches": (parse_model(HEAD + BRANCHES), []),
    "weights in branches": (branches(weight(0), weight(1)), ["w", "w"]),
    "a tied weight": (parsed(TIED, w=weight()), ["w"]),
    "a Constant node": (in_a_constant(), ["w"]),
    "a function": (parse_model(FUNCTION), []),
    "no weights": (parsed("(float[N] x) => (float[N] y) { y = Relu(x) }"), []),
    "no inputs": (parsed("() => (float[1] y) { y = Constant<value = float[1] {1}>() }"), []),
    "texts": (parsed(TEXTS, w=weight()), ["w"]),
    "strange": (parsed("(float[N,64] x) => (float y) { y = Odd(x, w) }", w=weight()), []),
    "a sequence": (parsed("(seq(float[N]) s) => (int64 y) { y = SequenceLength(s) }"), []),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_that_is_stored_is_inspected(name, capsys):
    proto, weights = MODELS[name]
    table = shown(capsys, "inspect", write(proto))
    found = figures(capsys, "inspect", "in.onnx")
    assert [row["name"] for row in found["rows"]] == weights
    for word in ("operator set", "nodes", "weights", "total", "memory", *weights):
        assert word in table
    model = from_proto(proto)
    stored = sum(len(list(model.stored(graph))) for graph in model.graphs())
    assert stored == len(found["rows"]) + found["others"]
    assert found["other_bytes"] >= 0
    assert sum(found["operators"].values()) == len(list(model.nodes()))
    assert bool(found["unknown"]) == (name in ("texts", "strange", "a sequence"))
    assert bool(found["unknown"]) == ("warning: not run" in table)
    for row in found["rows"]:
        assert row["bytes"] == WIDE * WIDE * 4
        assert bool(row["becomes"]) != bool(row["why"]) or found["unknown"]
    assert json.loads(json.dumps(inspect(proto).as_dict())) == found


def test_uses_and_what_is_no_weight_are_told(capsys):
    (row,) = figures(capsys, "inspect", write(MODELS["a tied weight"][0]))["rows"]
    assert row["operators"] == ["Gather", "MatMul"]
    assert "inside a function" in shown(capsys, "inspect", write(MODELS["a function"][0]))


def test_weights_of_one_name_are_told_apart(capsys):
    proto = branches(weight(), np.full((WIDE, WIDE), np.nan, "float32"))
    first, second = figures(capsys, "inspect", write(proto))["rows"]
    assert first["becomes"]
    assert "NaN" in second["why"]


@pytest.mark.parametrize("passes", ["prune", "quant(bits=8)"])
def test_nothing_is_said_of_weights_that_passes_were_not_tried_on(passes, capsys):
    proto = MODELS["texts"][0] if passes != "prune" else product()
    assert "nothing to do" not in shown(capsys, "inspect", write(proto), "--passes", passes)


def test_types_of_inputs_are_those_of_onnx(capsys):
    text = "(string[N] s, bfloat16[N] b) => (string[N] t, bfloat16[N] c) { "
    printed = shown(capsys, "inspect", write(parsed(text + "t = Identity(s)  c = Identity(b) }")))
    assert "s: string [N]" in printed
    assert "b: bfloat16 [N]" in printed


def test_external_data_are_inspected_and_counted(place, capsys):
    save(from_proto(product()), place / "m.onnx", external=True)
    found = figures(capsys, "inspect", "m.onnx")
    assert [row["bytes"] for row in found["rows"]] == [WIDE * WIDE * 4] * 2
    (place / names(place)[-1]).unlink()
    fails(capsys, 3, "inspect", "m.onnx")


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, ["wide"]), (9, ["wide", "w"])])
def test_only_the_largest_are_listed(count, expected, capsys):
    wide = np.concatenate([weight()] * 2, 1)
    text = "(float[N,64] x) => (float y) { h = MatMul(x, w)  y = MatMul(h, wide) }"
    write(parsed(text, w=weight(), wide=wide))
    printed = shown(capsys, "inspect", "in.onnx", "--largest", str(count))
    assert [x.split()[0] for x in printed.splitlines() if "initializer" in x] == expected


@pytest.mark.parametrize("name", ["w\x1b[31m", "a\nb", "[red]w[/red]", "\x9b", "ä漢", " "])
def test_odd_names_are_printed_harmlessly(name, capsys):
    proto = product(**{name: weight(0)})
    for node in proto.graph.node:
        node.input[1] = name
    proto.producer_name = name
    printed = shown(capsys, "inspect", write(proto))
    assert not name.isprintable() or name in printed
    assert name in [row["name"] for row in figures(capsys, "inspect", "in.onnx")["rows"]]


# ---------------------------------------------------------------------------------------- bench

QUICK = ["--seconds", "0.01"]


def relu(name: str, kind: str = "float") -> ModelProto:
    return parsed(f'({kind}[N,8] "{name}") => ({kind}[N,8] y) {{ y = Relu("{name}") }}')


def test_a_model_is_as_good_as_itself(capsys):
    printed = shown(capsys, "bench", "in.onnx", "in.onnx", *QUICK, "--threads", "2")
    for word in ("size", "1.00x smaller", "speed", "load", "error    0.0000", "2 threads"):
        assert word in printed
    found = figures(capsys, "bench", "in.onnx", "in.onnx", *QUICK)
    assert found["bytes"] == [Path("in.onnx").stat().st_size] * 2
    assert (found["error"], found["drawn"], found["threads"]) == (0.0, True, 1)
    for footprint in found["footprints"]:
        assert footprint["load_seconds"] > 0


@pytest.mark.parametrize("other", [relu("z"), relu("x", "double"), product()])
def test_models_with_other_inputs_are_not_compared(other, capsys):
    write(relu("x"), "first.onnx")
    fails(capsys, 5, "bench", "first.onnx", write(other, "other.onnx"), *QUICK)


def test_outputs_of_other_names_are_not_compared(capsys):
    write(relu("x"), "first.onnx")
    write(parsed("(float[N,8] x) => (float[N,8] z) { z = Relu(x) }"), "other.onnx")
    found = compare("first.onnx", "other.onnx", seconds=0.01)
    assert found.quality is found.error is None
    assert "not compared" in shown(capsys, "bench", "first.onnx", "other.onnx", *QUICK)


@pytest.mark.parametrize("body", ["Log", "Transpose"])
def test_an_error_beyond_all_numbers_is_no_number_either(body, capsys):
    write(relu("x"), "first.onnx")
    write(parsed(f"(float[N,8] x) => (float y) {{ y = {body}(x) }}"), "other.onnx")
    figures(capsys, "bench", "first.onnx", "other.onnx", *QUICK)
    assert "10000000000" not in shown(capsys, "bench", "first.onnx", "other.onnx", *QUICK)


def test_kernels_are_measured_against_others_and_the_machine(monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.kernel_speed.SIZES", ((256, 64),))
    few = ["--threads", "1", "--rows", "2", "--seconds", "0.001"]
    found = json.loads(shown(capsys, "bench", "kernels", "--json", *few))
    assert found["limits"][0]["copy"] > 0
    seen = {row["kernel"].split()[0].strip(",") for row in found["rows"]}
    assert {"int8", "int4", "int2", "ternary", "XNOR", "CSR", "BSR", "2:4", "dequantize"} <= seen
    for row in found["rows"]:
        assert all(ratio > 0 for ratio in row["ratios"].values())
        assert len(row["milliseconds"]) > 1
    text = shown(capsys, "bench", "kernels", *few)
    assert "sgemm" in text
    assert "256x64" in text
    assert "--seconds" in fails(capsys, 2, "bench", "kernels", "--seconds", "0")


def test_external_data_count_in_the_comparison(place, capsys):
    save(from_proto(product()), place / "m.onnx", external=True)
    found = figures(capsys, "bench", "m.onnx", "in.onnx", *QUICK)
    assert found["bytes"][0] > 2 * 4 * WIDE * WIDE
    assert found["error"] == 0


def test_texts_need_data(place, capsys):
    model = write(MODELS["texts"][0])
    assert "--data" in fails(capsys, 5, "bench", model, model, *QUICK)
    np.savez("data.npz", s=np.array(["a", "bcd"]), x=np.ones((2, 64), "float32"))
    assert "given" in shown(capsys, "bench", model, model, *QUICK, "--data", "data.npz")


def test_inputs_may_have_any_name(capsys):
    odd = ["file", "allow_pickle", "arr_0", "a/b", "../x", "ä b", "self", " "]
    ports = ", ".join(f'float[N] "{name}"' for name in odd)
    read = ", ".join(f'"{name}"' for name in odd)
    model = write(parsed(f"({ports}) => (float[N] y) {{ y = Sum({read}) }}"))
    assert "error    0.0000" in shown(capsys, "bench", model, model, *QUICK)


WRONG = """
2 inspect
2 inspect in.onnx --passes=
2 inspect in.onnx --passes nonsense
2 inspect in.onnx --largest many
2 inspect in.onnx --target nowhere
3 inspect nowhere.onnx
3 inspect .
5 inspect in.onnx --calib nowhere.npz
2 bench in.onnx
2 bench in.onnx in.onnx --threads 0
2 bench in.onnx in.onnx --threads 1000000
2 bench in.onnx in.onnx --seconds 0
2 bench in.onnx in.onnx --seconds nan
2 bench in.onnx in.onnx --seed=-1
3 bench in.onnx nowhere.onnx
3 bench . in.onnx
5 bench in.onnx in.onnx --data nowhere.npz
2 passes nonsense
2 passes quant(bits=8)
2 completion csh
2 completion
2 profile --seconds 0
2 profile --seconds nan
7 profile --out nowhere/m.toml
7 profile --out .
"""


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_a_wrong_command_is_two_lines(line, monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.profiling._ratios", lambda *_: pytest.fail("measured"))
    code, *arguments = line.split()
    fails(capsys, int(code), *arguments)
    assert names(Path()) == ["in.onnx"]


# ------------------------------------------------------------------------------ passes, profile


def test_passes_are_listed_and_explained(capsys):
    listed = shown(capsys, "passes")
    for name in registry.names():
        assert f"{name} " in listed
        (example,) = re.findall(r"--passes '(.*)'", shown(capsys, "passes", name))
        assert Pipeline.parse(example).passes[0].name == name
    explained = shown(capsys, "passes", "quant")
    for word in ("bits", "16 or 8", "activations", "int8"):
        assert word in explained


def test_a_profile_is_a_target(place, monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.profiling.SIZES", ((32, 32), (64, 64)))
    assert main(["profile", "--seconds", "0.001", "--out", "m.toml"]) == 0
    run = ["in.onnx", "out.onnx", *EIGHT, "--target", "m.toml", "--report", "r.json", "--quiet"]
    assert main(run) == 0
    assert json.loads((place / "r.json").read_text())["target"] == "m"
    printed = tomllib.loads(shown(capsys, "profile", "--seconds", "0.001"))
    forms = ("dynamic", "dequantize", "static")
    assert [len(printed["speed"][form]["product"]) for form in forms] == [2, 2, 2]
    for kept in ("convolutions", "operators", "reading"):
        assert getattr(targets.load("m.toml"), kept) == getattr(targets.host(), kept)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_there_for_every_command(name, capsys):
    printed = shown(capsys, *([name] if name else []), "--help")
    assert f"usage: onnx-compress {name}".strip() in printed
    assert "%(" not in printed


# ----------------------------------------------------------------------------------- completion


def script(shell: str, capsys) -> Path:
    path = Path(f"script.{shell}")
    path.write_text(shown(capsys, "completion", shell))
    return path


def shell_says(shell: str, text: str) -> list[str]:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_script(shell, capsys):
    shell_says(shell, f"{shell} -n {script(shell, capsys)}")


TYPED = {
    "": {"in.onnx", "inspect", "bench", "passes"},
    "in": {"in.onnx", "inspect"},
    "in.onnx out.onnx --dr": {"--dry-run"},
    "in.onnx out.onnx --passes ": {"fold", "prune", "quant"},
    "in.onnx --passes qu": {"quant"},
    "in.onnx out.onnx --target avx": {"avx2", "avx512-vnni"},
    "in.onnx --calib my": {"my data.npz"},
    "my": {"my data.npz"},
    "inspect --js": {"--json"},
    "bench in": {"in.onnx"},
    "bench --see": {"--seed"},
    "passes q": {"quant"},
    "completion z": {"zsh"},
}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_what_is_typed_is_completed(shell, place, capsys):
    (place / "my data.npz").touch()
    source = f"source {script(shell, capsys)}"
    for typed, expected in TYPED.items():
        words = ["onnx-compress", *typed.split(" ")]
        lines = "COMP_WORDS=({}); COMP_CWORD={}; _onnx_compress; printf '%s\\n' {}".format(
            " ".join(f"'{word}'" for word in words), len(words) - 1, '"${COMPREPLY[@]}"'
        )
        if shell == "fish":
            lines = f"complete -C 'onnx-compress {typed}'"
        found = {line.partition("\t")[0] for line in shell_says(shell, f"{source}; {lines}")}
        assert found >= expected, typed
        assert not typed or found == expected, typed


def test_zsh_knows_the_command(capsys):
    load = f"autoload -U compinit; compinit -u -D; source ./{script('zsh', capsys)}"
    (found,) = shell_says("zsh", f"{load}; print $_comps[onnx-compress]")
    assert "_onnx_compress" in found


# ---------------------------------------------------------------------------- pipes and screens


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
