"""The command: exit codes, what it prints and where, and what it leaves behind."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import cli
from onnx_compress.cli import main
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.runtime import Session

RNG = np.random.default_rng(29)
SEEDED = RNG.bit_generator.state
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = SEEDED


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def build(**weights: np.ndarray) -> ModelProto:
    """A chain of products with these weights, 96 wide."""
    lines, at = [], "x"
    for number, name in enumerate(weights):
        out = "y" if number == len(weights) - 1 else f"h{number}"
        lines.append(f'{out} = MatMul ({at}, "{name}")')
        at = out
    model = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g (float[N,96] x) => (float[N,96] y) {{ {'  '.join(lines)} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(build(W=draw(96, 96), V=draw(96, 96)).SerializeToString())
    np.savez(tmp_path / "data.npz", x=draw(8, 96))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = {"in.onnx", "data.npz"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "onnx_compress", *arguments],
        capture_output=True,
        env=os.environ | environment,
    )


def test_a_model_is_written_and_the_screen_says_how_it_went(place, capsys):
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--calib", "data.npz"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("in.onnx", "out.onnx", "fold", "quant", "size", "error", "speed", "memory", "dB"):
        assert word in printed.out
    ratio = (place / "in.onnx").stat().st_size / (place / "out.onnx").stat().st_size
    assert f"{ratio:.2f}x smaller" in printed.out
    assert "held-out" in printed.out
    onnx.checker.check_model("out.onnx", full_check=True)
    assert names(place) == FILES | {"out.onnx"}


def test_the_default_passes_are_run(place, capsys):
    assert main(["in.onnx", "out.onnx"]) == 0
    printed = capsys.readouterr().out
    assert "prune" in printed
    assert "quant" in printed
    assert "--calib" in printed
    assert (place / "out.onnx").stat().st_size < (place / "in.onnx").stat().st_size


def test_what_stays_as_it_is_gets_the_verdict_unchanged(place, capsys):
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Neg (x) }'
    )
    (place / "in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx"]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert (place / "out.onnx").read_bytes() == (place / "in.onnx").read_bytes()


# ------------------------------------------------------------------------------------- errors

ERRORS = {
    "unknown pass": (["in.onnx", "out.onnx", "--passes", "qant"], 2),
    "wrong option": (["in.onnx", "out.onnx", "--passes", "quant(bits=7)"], 2),
    "wrong order": (["in.onnx", "out.onnx", "--passes", "quant,prune"], 2),
    "unknown target": (["in.onnx", "out.onnx", "--target", "nowhere"], 2),
    "no input": (["nowhere.onnx", "out.onnx"], 3),
    "no model": (["data.npz", "out.onnx"], 3),
    "a folder": (["folder", "out.onnx"], 3),
    "no data": (["in.onnx", "out.onnx", "--calib", "nowhere.npz"], 5),
    "wrong data": (["in.onnx", "out.onnx", "--calib", "wrong.npz"], 5),
    "damaged data": (["in.onnx", "out.onnx", "--calib", "in.onnx"], 5),
    "too bad": (["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--max-error", "1e-9"], 6),
    "no place": (["in.onnx", "nowhere/out.onnx"], 7),
    "a folder in the place": (["in.onnx", "folder"], 7),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_two_lines_and_a_documented_exit_code(name, place, capsys):
    (place / "folder").mkdir()
    np.savez(place / "wrong.npz", z=draw(8, 96))
    before = names(place)
    arguments, code = ERRORS[name]
    assert main(arguments) == code
    printed = capsys.readouterr()
    error, hint = printed.err.splitlines()
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    assert printed.out == ""
    assert names(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["in.onnx"],
        ["in.onnx", "out.onnx", "--nonsense"],
        ["in.onnx", "out.onnx", "--max-error", "x"],
        ["in.onnx", "out.onnx", "--threads", "x"],
    ],
)
def test_a_wrong_command_ends_with_two(arguments, place, capsys):
    assert main(arguments) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "onnx-compress" in hint
    assert names(place) == FILES


@pytest.mark.parametrize(
    ("option", "number"),
    [("--max-error", "nan"), ("--max-error", "-1"), ("--threads", "-3"), ("--seed", "-1")],
)
def test_numbers_out_of_bounds_are_wrong_commands(option, number, place, capsys):
    try:
        code = main(["in.onnx", "out.onnx", f"{option}={number}"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err
    assert names(place) == FILES


def test_a_text_that_cannot_be_read_is_shown_with_a_caret(capsys):
    text = "prune,quant(bits=8"
    assert main(["in.onnx", "out.onnx", "--passes", text]) == 2
    first, shown, caret, hint = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert shown.strip() == text
    assert caret.strip() == "^"
    assert hint.startswith("hint:  ")


def test_a_pass_that_fails_ends_with_four(place, monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise VerificationError("inputs or outputs changed", where="quant")

    monkeypatch.setattr(cli.compress, "compress", fails)
    assert main(["in.onnx", "out.onnx"]) == 4
    assert capsys.readouterr().err.count("\n") == 2


def test_running_out_of_memory_is_no_traceback(monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli.compress, "compress", fails)
    assert main(["in.onnx", "out.onnx"]) == 8
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("at", ["load", "run"])
def test_an_interrupt_ends_with_130_and_leaves_nothing(at, place, monkeypatch, capsys):
    """Where the written result is loaded back, and where it is run."""
    load, run = Session.__init__, Session.run
    staged: list[Session] = []

    def loading(self, model, *arguments, **options):
        load(self, model, *arguments, **options)
        if isinstance(model, Path):
            assert model.exists()
            staged.append(self)
            if at == "load":
                raise KeyboardInterrupt

    def running(self, feed):
        if self in staged:
            raise KeyboardInterrupt
        return run(self, feed)

    monkeypatch.setattr(Session, "__init__", loading)
    monkeypatch.setattr(Session, "run", running)
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 130
    assert staged
    assert names(place) == FILES
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_interrupt_leaves_an_older_result_alone(place, monkeypatch):
    (place / "out.onnx").write_bytes(b"older")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 130
    assert names(place) == FILES | {"out.onnx"}
    assert (place / "out.onnx").read_bytes() == b"older"


# ------------------------------------------------------------------------------------ reports


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_holds_all_figures(place, capsys):
    arguments = ["in.onnx", "out.onnx", "--passes", "prune(sparsity=0.2),quant(bits=8)"]
    assert main([*arguments, "--calib", "data.npz", "--report", "report.json"]) == 0
    report = strict((place / "report.json").read_text())
    assert report["schema"] == 2
    size, cost, quality = (report[key] for key in ("size", "cost", "quality"))
    assert size["before"] == (place / "in.onnx").stat().st_size
    assert size["after"] == (place / "out.onnx").stat().st_size
    assert size["ratio"] == pytest.approx(size["before"] / size["after"])
    assert report["passes"] == "fold,prune(sparsity=0.2),quant(bits=8)"
    assert [stage["pass"] for stage in report["stages"]] == report["passes"].split(",")
    assert quality["outputs"][0]["name"] == "y"
    assert 0 < quality["error"] == quality["outputs"][0]["error"]
    assert quality["sqnr_db"] > 0
    assert quality["max_error"] == 0.15
    assert quality["samples"] == {"drawn": False, "fitted": 4, "judged": 4}
    assert cost["after"]["weight_bytes"] < cost["before"]["weight_bytes"]
    assert cost["before"]["parameters"] == 2 * 96 * 96
    assert report["speed"]["measured"] > 0
    assert report["verdict"] == "compressed"
    assert {"onnx-compress", "onnxruntime"} <= set(report["versions"])
    for key in ("target", "seconds", "warnings", "metric", "seed", "layers", "exclude"):
        assert key in report


def test_the_report_of_a_bad_result_is_valid_too(place):
    arguments = ["in.onnx", "out.onnx", "--passes", "prune(sparsity=0.99)", "--report", "r.json"]
    assert main([*arguments, "--quiet"]) == 0
    report = strict((place / "r.json").read_text())
    assert report["quality"]["error"] > 0.15
    assert any("above" in warning for warning in report["warnings"])


def test_a_report_that_cannot_be_written_ends_with_seven(place, capsys):
    assert main(["in.onnx", "out.onnx", "--report", "nowhere/report.json"]) == 7
    error, hint = capsys.readouterr().err.splitlines()
    assert "report.json" in error
    assert "folder" in hint
    assert names(place) == FILES  # it is looked at first


def test_quiet_prints_nothing(place, capsys):
    assert main(["in.onnx", "out.onnx", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert (place / "out.onnx").exists()


def test_quiet_still_prints_errors(capsys):
    assert main(["nowhere.onnx", "out.onnx", "--quiet"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"onnx-compress {version('onnx-compress')}"


def test_help_names_all_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for code in ("0", "2", "3", "4", "5", "6", "7", "130"):
        assert re.search(rf"\b{code}\s", printed)


def test_options_reach_the_run(place):
    arguments = ["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--report", "r.json"]
    assert main([*arguments, "--quiet", "--no-fold", "--target", "portable", "--threads", "1"]) == 0
    report = strict((place / "r.json").read_text())
    assert report["passes"] == "quant(bits=8)"
    assert report["target"] == "portable"
    kinds = {node.op_type for node in onnx.load("out.onnx").graph.node}
    assert "MatMulInteger" not in kinds


# ----------------------------------------------------------------------------- odd names, pipes


@pytest.mark.parametrize(
    "name", ["[/x]", "[bold]W[/bold]", "a[0]", "[red]", "W\x1b[31m", "ä\u202e漢"]
)
def test_names_are_printed_as_they_are_or_harmless(place, capsys, name):
    odd = draw(96, 96)
    odd[0, 0] = np.nan
    proto = build(W=draw(96, 96), V=odd)
    proto.graph.initializer[1].name = name
    proto.graph.node[1].input[1] = name
    proto.graph.output.extend(
        parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g () => (float[N,96] h0) {}'
        ).graph.output
    )
    (place / "in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 0
    printed = capsys.readouterr().out
    assert "NaN or infinity" in printed
    assert not CONTROL.search(printed)
    if name.isprintable() and name.isascii():
        assert name in printed


def test_names_of_files_are_printed_as_they_are(place, capsys):
    (place / "in.onnx").rename(place / "[bold]in.onnx")
    assert main(["[bold]in.onnx", "out[red].onnx", "--passes", "quant(bits=8)"]) == 0
    printed = capsys.readouterr().out
    assert "[bold]in.onnx" in printed
    assert "out[red].onnx" in printed


def test_errors_hold_no_control_characters(capsys):
    assert main(["in\x1b[31m\n\r.onnx", "out.onnx"]) == 3
    printed = capsys.readouterr().err
    assert not CONTROL.search(printed)
    assert len(printed.splitlines()) == 2


def test_a_pipe_gets_plain_text():
    done = command("in.onnx", "out.onnx", "--passes", "quant(bits=8)")
    assert done.returncode == 0
    printed = done.stdout.decode()
    assert "smaller" in printed
    assert not CONTROL.search(printed)
    assert done.stderr == b""
    assert max(len(line) for line in printed.splitlines()) <= 110


def test_the_installed_command_is_the_same(place):
    script = Path(sys.executable).with_name("onnx-compress")
    done = subprocess.run([script, "nowhere.onnx", "out.onnx"], capture_output=True)
    assert done.returncode == 3
    assert done.stdout == b""
    assert len(done.stderr.decode().splitlines()) == 2


def test_a_screen_of_ascii_is_enough(place):
    (place / "in.onnx").rename(place / "ä漢.onnx")
    done = command("ä漢.onnx", "out.onnx", "--passes", "quant(bits=8)", PYTHONIOENCODING="ascii")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0
    assert (place / "out.onnx").exists()


def test_a_reader_that_goes_away_causes_no_traceback(place):
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_compress", "in.onnx", "out.onnx", "--passes", "quant(bits=8)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process:
        error = process.stderr.read()
    assert b"Traceback" not in error
    assert b"Exception ignored" not in error
    assert (place / "out.onnx").exists()
