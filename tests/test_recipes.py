"""Recipes: --save-recipe writes what a run did, --passes @FILE does it again."""

import contextlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress import compress, recipe
from onnx_compress.cli import main
from onnx_compress.ir.errors import OptionError, PipelineError
from onnx_compress.passes import Entry, Pass, Phase, Pipeline, Report, Stage
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

from graphs import parsed, product
from places import contents

FILES = {"data.npz", "in.onnx"}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    x = np.random.default_rng(5).standard_normal((16, 64)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*arguments: str, out: str = "out.onnx") -> bytes:
    """What the command writes."""
    assert main(["in.onnx", out, "--quiet", *arguments]) == 0
    return Path(out).read_bytes()


def kinds(model: bytes) -> dict[str, str]:
    """Types of the weights by name, where they are kept as they are."""
    stored = onnx.load_from_string(model).graph.initializer
    return {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in stored}


# -------------------------------------------------------------------------------------- again


ASKED = {
    "numbers": ["--passes", "prune(sparsity=0.3),quant(bits=8)"],
    "no numbers": ["--passes", "quant", "--calib", "data.npz"],
    "the default": ["--calib", "data.npz"],
    "another target": ["--passes", "quant(bits=8)", "--target", "portable"],
    "a seed": ["--passes", "quant(bits=8)", "--seed", "7"],
    "a limit": ["--passes", "quant", "--calib", "data.npz", "--max-error", "0.004"],
    "left alone": ["--passes", "quant(bits=8)", "--exclude", "w", "--exclude", 'a"\\\n*[漢]'],
    "not cleaned": ["--passes", "quant(bits=8,activations=float)", "--no-fold"],
}


@pytest.mark.parametrize("name", ASKED)
def test_a_recipe_gives_the_same_bytes_again(name):
    first = made(*ASKED[name], "--save-recipe", "r.toml")
    data = ["--calib", "data.npz"] if "--calib" in ASKED[name] else []
    assert made("--passes", "@r.toml", *data, out="again.onnx") == first
    assert made("--passes", "@r.toml", *data, "--save-recipe", "s.toml") == first
    assert Path("s.toml").read_text() == Path("r.toml").read_text()


@pytest.mark.parametrize("name", ["numbers", "another target", "left alone", "not cleaned"])
def test_a_recipe_gives_the_same_bytes_from_python(name):
    first = made(*ASKED[name], "--save-recipe", "r.toml")
    compress("in.onnx", out="again.onnx", measure=False, **recipe.read("r.toml"))
    assert Path("again.onnx").read_bytes() == first


def test_a_recipe_holds_the_numbers_that_were_taken():
    made("--passes", "prune,quant", "--calib", "data.npz", "--save-recipe", "r.toml")
    found = recipe.read("r.toml")
    assert str(found["passes"]) == "quant(bits=8)"


def test_the_recipe_of_a_plan_gives_what_the_run_gives():
    command = ["--passes", "quant(bits=8)", "--save-recipe"]
    assert main(["in.onnx", "--dry-run", "--quiet", *command, "plan.toml"]) == 0
    made(*command, "run.toml")
    assert Path("plan.toml").read_text() == Path("run.toml").read_text()


def test_the_command_stands_over_the_recipe():
    made(
        "--passes", "quant(bits=8)", "--target", "portable", "--seed", "3", "--exclude", "w",
        "--max-error", "0.1", "--save-recipe", "r.toml",
    )  # fmt: skip
    again = ["--passes", "@r.toml", "--seed", "4", "--target", "avx2"]
    assert kinds(made(*again, "--exclude", "v*")) == {"w": "FLOAT", "v": "FLOAT"}
    made(*again, "--max-error", "0.2", "--save-recipe", "s.toml")
    found = recipe.read("s.toml")
    assert found.pop("passes")
    assert found == {
        "target": "avx2", "seed": 4, "exclude": ["w"], "max_error": 0.2, "fold": True
    }  # fmt: skip


def test_limits_of_a_recipe_refuse_as_those_of_the_command_do(place, capsys):
    text = 'recipe = 1\nmax_error = 1e-9\n[[passes]]\nname = "quant"\nbits = 8\n'
    (place / "r.toml").write_text(text)
    before = contents(place)
    assert main(["in.onnx", "out.onnx", "--passes", "@r.toml"]) == 6
    assert contents(place) == before


NORMED = """(float[1,8,6,6] x) => (float[1,16,4,4] y) {
    c = Conv(x, W)  y = BatchNormalization(c, g, g, g, g) }"""


@pytest.mark.parametrize("fold", ["", "fold = true\n", "fold = false\n"])
def test_a_recipe_means_the_same_on_the_command_line_and_in_python(fold, place):
    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((16, 8, 3, 3)), "g": rng.uniform(0.5, 1, 16)}
    proto = parsed(NORMED, **{name: a.astype("float32") for name, a in weights.items()})
    (place / "in.onnx").write_bytes(proto.SerializeToString())
    (place / "r.toml").write_text(f'recipe = 1\n{fold}[[passes]]\nname = "quant"\nbits = 8\n')
    first = made("--passes", "@r.toml")
    compress("in.onnx", out="again.onnx", measure=False, **recipe.read("r.toml"))
    assert Path("again.onnx").read_bytes() == first
    normed = any(node.op_type == "BatchNormalization" for node in onnx.load("out.onnx").graph.node)
    assert normed == ("false" in fold)


# ---------------------------------------------------------------------------- nothing to write


def test_a_run_that_changed_nothing_ends_as_it_is_told(place, capsys):
    """0 and a result, or an error and none; and a report that was asked for is written."""
    arguments = ["in.onnx", "out.onnx", "--passes", "fold", "--report", "report.json"]
    code = main([*arguments, "--save-recipe", "r.toml"])
    assert (code == 0) == (place / "out.onnx").exists()
    assert (code == 0) == (place / "report.json").exists()


@dataclass(frozen=True)
class Unnamed(Pass):
    """A pass without an entry point."""

    name: ClassVar[str] = "unnamed"

    @property
    def phase(self) -> Phase:
        return Phase.MASK


def test_a_pass_without_an_entry_point_cannot_be_written():
    with pytest.raises(OptionError, match="unnamed"):
        recipe.written(report_of([Unnamed()]), {})


def test_a_refused_run_writes_no_recipe(place, capsys):
    options = ["--passes", "quant(bits=8)", "--max-error", "1e-9", "--report", "report.json"]
    assert main(["in.onnx", "out.onnx", *options, "--save-recipe", "r.toml"]) == 6
    assert set(contents(place)) == {*FILES, "report.json"}


def test_names_that_no_file_can_hold_do_not_end_in_a_traceback(place, capsys):
    arguments = ["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--exclude", "\udcff"]
    code = main([*arguments, "--save-recipe", "r.toml"])
    assert code in (0, 2, 7)
    assert (code == 0) == (place / "out.onnx").exists() == (place / "r.toml").exists()


# ------------------------------------------------------------------------------------ malformed

HEAD = "recipe = 1\n"
EIGHT = '[[passes]]\nname = "quant"\nbits = 8\n'
MALFORMED = {
    "empty": "",
    "not TOML": "recipe = \n",
    "no format": EIGHT,
    "another format": "recipe = 2\n" + EIGHT,
    "a format that is text": 'recipe = "1"\n' + EIGHT,
    "a format that is a truth": "recipe = true\n" + EIGHT,
    "no passes": HEAD,
    "an empty list of passes": HEAD + "passes = []\n",
    "passes as text": HEAD + 'passes = "quant(bits=8)"\n',
    "one table of passes": HEAD + '[passes]\nname = "quant"\n',
    "an unknown key": HEAD + "speed = 3\n" + EIGHT,
    "an unknown key of two lines": HEAD + '"a\\n    b" = 3\n' + EIGHT,
    "a pass without a name": HEAD + "[[passes]]\nbits = 8\n",
    "a name that is a number": HEAD + "[[passes]]\nname = 8\n",
    "an unknown pass": HEAD + '[[passes]]\nname = "qant"\n',
    "a pass of control characters": HEAD + '[[passes]]\nname = "\\u001b[31m\\n    x"\n',
    "an unknown option": HEAD + EIGHT + "size = 3\n",
    "an option out of bounds": HEAD + '[[passes]]\nname = "prune"\nsparsity = nan\n',
    "an option of another type": HEAD + '[[passes]]\nname = "quant"\nbits = "8"\n',
    "an option that is a list": HEAD + '[[passes]]\nname = "quant"\nbits = [8]\n',
    "an option that is a date": HEAD + '[[passes]]\nname = "prune"\nsparsity = 2020-01-01\n',
    "a wrong order": HEAD + EIGHT + '[[passes]]\nname = "prune"\nsparsity = 0.5\n',
    "an error that is text": HEAD + 'max_error = "0.1"\n' + EIGHT,
    "an error that is a truth": HEAD + "max_error = true\n" + EIGHT,
    "an error below zero": HEAD + "max_error = -1\n" + EIGHT,
    "an error that is no number": HEAD + "max_error = nan\n" + EIGHT,
    "an error beyond all numbers": HEAD + f"max_error = 1{'0' * 400}\n" + EIGHT,
    "a seed below zero": HEAD + "seed = -1\n" + EIGHT,
    "a seed that is a fraction": HEAD + "seed = 0.5\n" + EIGHT,
    "fold as text": HEAD + 'fold = "no"\n' + EIGHT,
    "an unknown target": HEAD + 'target = "nowhere"\n' + EIGHT,
    "a target that is a folder": HEAD + 'target = "."\n' + EIGHT,
    "a target without a name": HEAD + 'target = ""\n' + EIGHT,
    "exclude as text": HEAD + 'exclude = "w"\n' + EIGHT,
    "exclude of numbers": HEAD + "exclude = [1]\n" + EIGHT,
    "exclude of lists": HEAD + 'exclude = [["w"]]\n' + EIGHT,
    "exclude of tables": HEAD + "exclude = [{a = 1}]\n" + EIGHT,
    "exclude of nothing": HEAD + 'exclude = [""]\n' + EIGHT,
    "very deep": HEAD + f"a = {'[' * 5000}{']' * 5000}\n",
    "binary": bytes(range(256)),
    "not UTF-8": b'recipe = 1 # \xff\n[[passes]]\nname = "fold"\n',
    "a model": product().SerializeToString(),
    "a folder": None,
}


@pytest.mark.parametrize("plan", [[], ["--dry-run"]], ids=["run", "plan"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_recipe_is_a_wrong_command(name, plan, place, capsys):
    content = MALFORMED[name]
    if content is None:
        (place / "r.toml").mkdir()
    else:
        data = content if isinstance(content, bytes) else content.encode()
        (place / "r.toml").write_bytes(data)
    before = contents(place)
    assert main(["in.onnx", "out.onnx", "--passes", "@r.toml", *plan]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    assert contents(place) == before


@pytest.mark.parametrize("passes", ["@", "@nowhere.toml", "@.", "@@", "@in.onnx", "@/dev/null"])
def test_a_recipe_that_is_not_there_is_a_wrong_command(passes, capsys):
    assert main(["in.onnx", "out.onnx", "--passes", passes]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert set(contents(Path())) == FILES


def test_lines_may_end_as_on_windows(place):
    (place / "r.toml").write_bytes((HEAD + EIGHT).replace("\n", "\r\n").encode())
    assert recipe.read("r.toml")["passes"] == Pipeline((Quant(bits=8),))


# --------------------------------------------------------------------------------- any pipeline

PRUNE = st.builds(Prune, sparsity=st.none() | st.floats(0, 0.99) | st.just(0))
QUANT = st.builds(
    Quant, bits=st.sampled_from([None, 8, 16]), activations=st.sampled_from([None, "int8", "float"])
)
PASSES = st.tuples(
    st.lists(st.just(Fold()), max_size=2), st.lists(PRUNE, max_size=2), st.lists(QUANT, max_size=2)
).map(lambda kinds: sorted(itertools.chain(*kinds), key=lambda one: one.phase))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_error": st.none() | st.floats(0) | st.integers(0, 9),
        "max_drop": st.none() | st.floats(0),
        "target": st.text(min_size=1),
        "seed": st.integers(0, 2**63 - 1),
        "fold": st.booleans(),
        "exclude": st.lists(st.text(min_size=1)),
    },
)


def report_of(passes: list[Pass]) -> SimpleNamespace:
    """What is read of a report: stages that each changed something."""
    changed = Report((Entry("w", "changed"),))
    return SimpleNamespace(
        stages=[Stage(str(p), changed, 2, 1, None, None, 0.0, "", p) for p in passes]
    )


@settings(max_examples=200)
@given(passes=PASSES.filter(bool), options=OPTIONS)
def test_what_is_written_reads_back_as_it_was(tmp_path_factory, passes, options):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(recipe.written(report_of(passes), options), "utf-8")
    found = recipe.read(path)
    assert found.pop("passes") == Pipeline(tuple(passes))
    assert found == {key: value for key, value in options.items() if value is not None}


@settings(max_examples=200)
@given(text=st.text() | st.text().map(lambda text: f"recipe = 1\n{text}\n{EIGHT}"))
def test_no_text_ends_in_anything_but_a_recipe_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text.toml"
    path.write_text(text, "utf-8")
    with contextlib.suppress(PipelineError):
        assert isinstance(recipe.read(path)["passes"], Pipeline)
