"""Passes and targets of other packages: found by name, listed, explained, run, checked, refused.

tests/plugin is one, installed here as from a wheel. The broken ones are written here.
"""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnx_compress.cli import main
from onnx_compress.passes import registry

from models_by_text import build, draw, error, left

PLUGIN = Path(__file__).parent / "plugin"
RANK = 12


def low(rows: int, columns: int) -> np.ndarray:
    return draw(rows, RANK) @ draw(RANK, columns) / RANK


SOURCE = build(
    "g (float[N,96] x) => (float[N,80] y) { h = MatMul (x, W)  r = Relu (h)  y = MatMul (r, V) }",
    W=low(96, 96),
    V=low(96, 80),
)
FEED = {"x": draw(8, 96)}
Done = tuple[int, str, list[str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "in.onnx").write_bytes(SOURCE.SerializeToString())
    np.savez(folder / "data.npz", x=FEED["x"])
    monkeypatch.chdir(folder)
    return folder


def made(folder: Path) -> ModelProto:
    return onnx.load(folder / "out.onnx")


def ranks(model: ModelProto) -> list[int]:
    return sorted(t.dims[0] for t in model.graph.initializer if t.name.split(".")[1:2] == ["b"])


# ------------------------------------------------------------------------------ one from a wheel


def wheel(folder: Path) -> Path:
    """What a build makes of tests/plugin; a build would fetch its tools from the network."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    groups = project["project"]["entry-points"].items()
    points = ["\n".join([f"[{g}]", *(f"{k} = {v}" for k, v in e.items())]) for g, e in groups]
    with zipfile.ZipFile(path, "w") as archive:
        for package in project["tool"]["setuptools"]["packages"]:
            for file in (PLUGIN / package).glob("*.*"):
                archive.write(file, f"{package}/{file.name}")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{stem}.dist-info/METADATA", head)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{stem}.dist-info/WHEEL", tags)
        archive.writestr(f"{stem}.dist-info/entry_points.txt", "\n\n".join(points))
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """The command, where the plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]
    subprocess.run([*pip, str(folder), str(wheel(folder))], check=True, capture_output=True)

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "onnx_compress", *arguments],
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr.splitlines()

    return run


def test_a_plugin_is_listed_with_the_others_and_explained(command):
    code, printed, errors = command("passes")
    assert (code, errors) == (0, [])
    names = [line.split()[0] for line in printed.splitlines() if "  " in line]
    assert sorted(names) == ["fold", "lowrank", "prune", "quant"]
    assert "a matrix as the product of two thin ones" in printed
    code, printed, errors = command("passes", "lowrank")
    assert (code, errors) == (0, [])
    for words in (
        "MatMul(x, W)   ->   MatMul(MatMul(x, A), B)",
        "phase    factor",
        "share    float from 0.01 to 1, default chosen by the error",
        "share of the singular values to keep",
        "smallest int from 1",
        "default 64",
        "--passes 'lowrank(share=0.25)'",
    ):
        assert words in printed


def stages(folder: Path) -> dict[str, str | None]:
    """The passes of a report, and how they failed."""
    report = json.loads((folder / "report.json").read_text())
    return {stage["pass"]: stage["failure"] for stage in report["stages"]}


def test_a_plugin_is_run_and_verified(command, place):
    passes = "lowrank(share=0.25, smallest=81),quant(bits=16)"
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--report", "report.json")
    code, printed, errors = command(*arguments, "--passes", passes, "--target", "avx2")
    assert (code, errors) == (0, [])
    assert "lowrank(share=0.25, smallest=81)" in printed
    assert list(stages(place)) == ["fold", "lowrank(share=0.25, smallest=81)", "quant(bits=16)"]
    assert ranks(made(place)) == [24]
    assert error(SOURCE, made(place), FEED) < 1e-2
    assert left(place) == {"in.onnx", "data.npz", "out.onnx", "report.json"}


def test_a_plugin_without_numbers_takes_the_strongest_setting_that_holds(command, place):
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--target", "avx2")
    code, printed, errors = command(*arguments, "--passes", "lowrank")
    assert (code, errors) == (0, [])
    assert "lowrank(share=0.25)" in printed
    assert "lowrank(share=0.1): error" in printed
    assert ranks(made(place)) == [16, 24]


def test_a_target_of_a_plugin_is_taken_by_name(command, place):
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--report", "report.json", "--quiet")
    passes = ("--passes", "lowrank(share=0.25)", "--max-error", "1")
    assert command(*arguments, *passes, "--target", "small-board") == (0, "", [])
    assert json.loads((place / "report.json").read_text())["target"] == "small-board"
    assert ranks(made(place)) == [16, 32]
    code, _, (_, hint) = command(*arguments, "--target", "small-bord")
    assert code == 2
    assert "small-board" in hint


# -------------------------------------------------------------------- broken ones, in this process


class Site:
    """A folder of installed packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, module: str, text: str, group: str = "passes", **points: str) -> None:
        """A package of one module, with entry points."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{module}.py").write_text(text)
        about = self.folder / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {place}" for name, place in points.items()]
        text = "\n".join([f"[onnx_compress.{group}]", *lines])
        (about / "entry_points.txt").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._found.cache_clear()
    yield Site(tmp_path / "site")
    registry._found.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


HEAD = '''
"""odd: what it does."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from onnx_compress.passes import Entry, Pass, Phase, Report, option
DONE = Report((Entry("W", "changed"),), summary="done")

@dataclass(frozen=True)
class Odd(Pass):
    name: ClassVar[str] = "odd"
    exact: ClassVar[bool] = EXACT
    phase: ClassVar[Phase] = Phase.FACTOR

    def run(self, model, context):
        first, second = [node for node in model.nodes() if node.op == "MatMul"]
        w, v = model.graph.initializers
        BODY
'''

BREAKING = {
    "raises": "raise RuntimeError('two\\nlines')",
    "gives no report": "model.set_constant(w, model.constant(w) * 2)",
    "drops a node": "del model.graph.nodes[first]; return DONE",
    "makes a cycle": "model.set_input(first, 0, second.output); return DONE",
    "another width": "model.set_input(second, 1, model.add_constant(model.graph, "
    "np.ones((7, 80), 'f'), 'k')); return DONE",
    "an unknown operator": "model.set_input(second, 0, model.add_node(model.graph, 'Nothing', "
    "[first.output])); return DONE",
    "no output": "model.graph.outputs.clear(); return DONE",
    "another output": "model.rename(model.graph.outputs[0][0], 'z'); return DONE",
    "NaN": "model.set_constant(w, model.constant(w) * np.float32('nan')); return DONE",
    "a failing import": "import nothing_of_this_name",
}


def odd(body: str, exact: bool = False) -> str:
    return HEAD.replace("BODY", body).replace("EXACT", str(exact))


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The two lines of a refusal."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    error, hint = printed.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    return f"{error}\n{hint}"


RUN = ("in.onnx", "out.onnx", "--calib", "data.npz", "--quiet", "--passes")


@pytest.mark.parametrize("name", BREAKING)
def test_a_plugin_that_breaks_the_model_is_refused_by_name(site, place, capsys, name):
    site.add("odd_one", odd(BREAKING[name]), odd="odd_one:Odd")
    assert "odd" in refused(capsys, 4, *RUN, "odd,quant(bits=8)").splitlines()[0]
    assert left(place) == {"in.onnx", "data.npz"}


@pytest.mark.parametrize("name", BREAKING)
def test_with_keep_going_it_is_left_out(site, place, capsys, name):
    site.add("odd_one", odd(BREAKING[name]), odd="odd_one:Odd")
    assert main([*RUN, "odd,quant(bits=8)", "--keep-going", "--report", "report.json"]) == 0
    assert capsys.readouterr().err == ""
    failed = {name: bool(failure) for name, failure in stages(place).items()}
    assert failed == {"fold": False, "odd": True, "quant(bits=8)": False}
    assert error(SOURCE, made(place), FEED) < 0.1


def test_a_plugin_that_says_it_is_exact_must_be(site, place, capsys):
    body = "model.set_constant(w, model.constant(w) * np.float32(1.5)); return DONE"
    site.add("odd_one", odd(body, exact=True), odd="odd_one:Odd")
    assert "odd" in refused(capsys, 4, *RUN, "odd")
    assert left(place) == {"in.onnx", "data.npz"}


# what is in the module -> the entry point
UNLOADABLE = {
    "import": ("import nothing_of_this_name", "odd_one:Odd"),
    "syntax": ("def :", "odd_one:Odd"),
    "name": ("Odd = nothing", "odd_one:Odd"),
    "own error": ("raise ValueError('two\\nlines')", "odd_one:Odd"),
    "no such name": ("", "odd_one:Odd"),
    "no such module": ("", "other_one:Odd"),
    "no pass": ("Odd = 5", "odd_one:Odd"),
    "no phase": (odd("return Report()").replace("phase:", "other:"), "odd_one:Odd"),
    "no name": (odd("return Report()").replace("name:", "other:"), "odd_one:Odd"),
    "an option without default": (
        odd("return Report()").replace("    exact:", "    must: int\n    exact:"),
        "odd_one:Odd",
    ),
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_plugin_that_cannot_be_loaded_is_refused_where_it_is_asked_for(site, place, capsys, name):
    text, point = UNLOADABLE[name]
    site.add("odd_one", text, odd=point)
    assert "odd" in refused(capsys, 2, *RUN, "odd")
    if name != "an option without default":
        assert "odd" in refused(capsys, 2, "passes", "odd")
    assert left(place) == {"in.onnx", "data.npz"}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_plugin_that_cannot_be_loaded_hides_no_other(site, place, capsys, name):
    """Who does not ask for it runs and lists what there is."""
    text, point = UNLOADABLE[name]
    site.add("odd_one", text, odd=point)
    assert main([*RUN, "prune(sparsity=0.1),quant(bits=8)"]) == 0
    assert main(["passes"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
    assert listed >= {"fold", "prune", "quant"}


@pytest.mark.parametrize("name", ["odd", "quant"])
def test_two_plugins_of_one_name_are_refused_with_both(site, place, capsys, name):
    for module in ("odd_one", "odd_two"):
        site.add(module, odd("return Report()"), **{name: f"{module}:Odd"})
    told = refused(capsys, 2, *RUN, name)
    assert repr(name) in told
    assert "odd_one:Odd" in told or "odd_two:Odd" in told


def test_two_plugins_of_one_name_hide_no_other(site, place):
    for module in ("odd_one", "odd_two"):
        site.add(module, odd("return Report()"), odd=f"{module}:Odd")
    assert main([*RUN, "quant(bits=8)"]) == 0


def test_a_plugin_is_listed_by_the_name_that_it_is_run_by(site, place, capsys):
    site.add("odd_one", odd("return Report()"), strange="odd_one:Odd")
    assert main(["passes"]) == 0
    assert "strange" in capsys.readouterr().out
    assert main([*RUN, "strange"]) == 0


# ------------------------------------------------------------------------------------- targets

BOARD = (PLUGIN / "onnx_compress_lowrank" / "small-board.toml").read_text()
# what is in the module that the entry point names
TARGETS = {
    "a path": "from pathlib import Path\nBOARD = Path(__file__).with_name('board.toml')",
    "a text": "BOARD = __file__.replace('odd_one.py', 'board.toml')",
    "a resource": "from importlib.resources import files\nBOARD = files('shelf') / 'board.toml'",
}
NO_TARGETS = {
    "import": "import nothing_of_this_name",
    "syntax": "def :",
    "own error": "raise ValueError('two\\nlines')",
    "no such name": "",
    "a number": "BOARD = 5",
    "nothing": "BOARD = None",
    "no such file": "BOARD = '/nowhere/board.toml'",
    "a folder": "BOARD = '/'",
    "no TOML": "BOARD = __file__",
    "bytes": "BOARD = __file__.replace('odd_one.py', 'bytes.toml')",
    "another TOML": "BOARD = __file__.replace('odd_one.py', 'other.toml')",
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_may_be_a_path_or_a_resource(site, place, name):
    site.add("odd_one", TARGETS[name], "targets", my_board="odd_one:BOARD")
    (site.folder / "shelf").mkdir()
    for folder in ("", "shelf"):
        (site.folder / folder / "board.toml").write_text(BOARD)
    arguments = ("quant(bits=8)", "--target", "my-board", "--report", "report.json")
    assert main([*RUN, *arguments]) == 0
    assert json.loads((place / "report.json").read_text())["target"] == "my-board"


@pytest.mark.parametrize("name", NO_TARGETS)
def test_a_broken_target_is_refused_by_name_and_hides_no_other(site, place, capsys, name):
    site.add("odd_one", NO_TARGETS[name], "targets", my_board="odd_one:BOARD")
    (site.folder / "bytes.toml").write_bytes(b"\xff\xfe")
    (site.folder / "other.toml").write_text("measured = 1")
    told = refused(capsys, 2, *RUN, "quant(bits=8)", "--target", "my-board")
    assert "my-board" in told.splitlines()[0]
    assert "there are" not in told  # it is there, but broken
    assert left(place) == {"in.onnx", "data.npz"}
    assert main([*RUN, "quant(bits=8)", "--target", "avx2"]) == 0


def test_two_targets_of_one_name_are_refused(site, place, capsys):
    for module in ("odd_one", "odd_two"):
        site.add(module, TARGETS["a path"], "targets", my_board=f"{module}:BOARD")
    (site.folder / "board.toml").write_text(BOARD)
    assert "my-board" in refused(capsys, 2, *RUN, "quant(bits=8)", "--target", "my-board")
