"""What a failure says, the inputs that are drawn, and the plugin of pytest."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.testing import (
    MUTATIONS,
    Failed,
    as_text,
    check_pass,
    examples,
    feed_of,
    feeds,
    models,
    regression,
)
from onnx_compress.testing.feeds import KINDS

import broken_functions
import broken_passes
from models_by_text import build, draw, same_numbers_in_any_order  # noqa: F401

HALVED = broken_passes.Halved()


def failure(pass_: object, model: ModelProto) -> Failed:
    with pytest.raises(Failed) as caught:
        check_pass(pass_, model)
    return caught.value


def code(message: str) -> str:
    """The test in a message."""
    return message.partition("A test:\n\n")[2]


def repeated(message: str) -> Failed:
    """What the test in a message fails with."""
    found: dict[str, object] = {}
    exec(code(message), found)
    with pytest.raises(Failed) as caught:
        found["test_regression"]()
    return caught.value


def of_the_test(model: ModelProto) -> ModelProto:
    """The model that the test in a message has."""
    found: dict[str, object] = {}
    text = code(regression(HALVED, model))
    exec(text.replace("check_pass(Halved(), model)", "return model"), found)
    return found["test_regression"]()


def product(wide: int = 3) -> ModelProto:
    return build("g (float[N,4] x) => (float[N,M] y) { y = MatMul (x, W) }", W=draw(4, wide))


# ------------------------------------------------------------------------------------- messages


def test_a_failure_says_which_check_where_and_by_how_much():
    failed = failure(HALVED, product())
    assert failed.check == "outputs_kept"
    assert str(failed).startswith("outputs_kept: y, optimized: the error is ")


def test_the_model_is_there_in_the_syntax_of_the_parser():
    text = str(failure(HALVED, product())).partition("The model:\n\n")[2]
    shown = text.partition("\n\nA test:")[0]
    assert list(onnx.parser.parse_model(shown).graph.node) == list(product().graph.node)


def test_the_test_in_it_fails_again_in_the_same_check():
    failed = failure(HALVED, product())
    again = repeated(str(failed))
    assert again.check == failed.check
    assert again.what.partition("\n")[0] == failed.what.partition("\n")[0]


@pytest.mark.parametrize(
    "pass_",
    [
        broken_passes.Boastful(),
        broken_passes.Secretive(),
        broken_passes.Restless(),
        broken_passes.ShiftedScales(),
    ],
    ids=str,
)
def test_so_it_does_for_other_passes_and_checks(pass_):
    failed = failure(pass_, product(8))
    assert repeated(str(failed)).check == failed.check


@pytest.mark.parametrize("function", [broken_functions.rebuilt, broken_functions.in_place])
def test_so_it_does_for_functions(function):
    model = product()
    model.producer_name = "somebody"
    failed = failure(function, model)
    assert repeated(str(failed)).check == failed.check


def test_options_that_were_given_are_in_the_test():
    text = regression(broken_passes.Restless(broken=False), product())
    assert "check_pass(Restless(broken=False), model)" in text
    assert "from broken_passes import Restless" in text


def test_a_small_drawn_model_is_text_in_the_test_too_with_its_documentation():
    model = find(models(ops=["MatMul"], dynamic=False), lambda model: True)
    text = code(regression(HALVED, model))
    assert 'model = onnx.parser.parse_model("""' in text
    again = of_the_test(model)
    assert again.graph.node == model.graph.node
    assert again.graph.node[0].doc_string
    assert again.graph.doc_string == model.graph.doc_string
    assert again.metadata_props == model.metadata_props


@pytest.mark.parametrize("name", ["unicode_names", "rename_all"])
def test_names_of_any_letters_do_not_break_the_test(name):
    model = MUTATIONS[name](product(), np.random.default_rng(0))
    failed = failure(HALVED, model)
    assert repeated(str(failed)).check == failed.check


def test_quotes_and_backslashes_in_names_and_documentation_do_not_break_the_test():
    model = product()
    model.graph.node[0].name = 'a"""b\\n'
    model.doc_string = 'it says """ and \\ and \n'
    assert repeated(str(failure(HALVED, model))).check == "outputs_kept"


def test_a_large_model_is_packed_and_shown_in_part():
    model = product(3000)
    text = regression(HALVED, model)
    assert "base64.b85decode" in text
    assert "float[4,3000] W =  {...}" in text
    assert "y = MatMul (x, W)" in text
    assert "(whole in the test)" in text
    assert len(text.partition("A test:")[0]) < 7000
    assert repeated(str(failure(HALVED, model))).check == "outputs_kept"


@pytest.mark.parametrize("number", [0.1 + 1e-8, 1e-45, 3.4e38, np.nan, np.inf, -0.0])
def test_numbers_survive_to_the_last_bit(number):
    weight = np.array([[number]], "float32")
    model = build("g (float[N,1] x) => (float[N,1] y) { y = MatMul (x, W) }", W=weight)
    (kept,) = of_the_test(model).graph.initializer
    assert onnx.numpy_helper.to_array(kept).tobytes() == weight.tobytes()


@examples(25)
@given(models(functions=True, opsets=(11, 23), dtypes=("float32", "float16", "float64")))
def test_the_test_of_any_drawn_model_has_that_very_model(model):
    again = of_the_test(model)
    assert as_text(again) == as_text(model)
    for one, other in zip(model.graph.initializer, again.graph.initializer, strict=True):
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in (one, other)]
        assert arrays[0].tobytes() == arrays[1].tobytes()


def test_what_a_pass_raises_comes_with_the_model_and_a_test_too():
    def raises(model: ModelProto) -> ModelProto:
        raise KeyError("somewhere deep")

    with pytest.raises(KeyError) as caught:
        check_pass(raises, product())
    (note,) = caught.value.__notes__
    assert "The model:" in note
    assert "def test_regression():" in note


def test_hypothesis_shows_the_smallest_model():
    @settings(max_examples=200, database=None)
    @given(models(ops=["Gemm", "Relu", "Add"]))
    def holds(model: ModelProto) -> None:
        check_pass(broken_functions.gemm_split, model, skip=["cost_not_grown"])

    with pytest.raises(Failed) as caught:
        holds()
    text = str(caught.value).partition("A test:")[0]
    assert text.count("Gemm") == text.count("transB") == 1
    assert "Relu" not in text


# ---------------------------------------------------------------------------------------- feeds


def test_feeds_are_of_the_kind_asked_for():
    model = from_proto(build("g (float[N,50] x) => (float[N,50] y) { y = Relu (x) }"))
    found = {kind: np.abs(feed_of(model, kind, 3)["x"]) for kind in KINDS}
    assert 0.5 < found["normal"].std() < 1
    assert not found["zeros"].any()
    tiny = np.finfo("float32").tiny
    assert (found["denormals"] < tiny).all()
    assert found["denormals"].any()
    assert found["large"].max() > 1e4
    assert {bool(part.any()) for part in (found["mixed"] == 0, found["mixed"] > 100)} == {True}


@settings(max_examples=50)
@given(st.data())
def test_feeds_fit_the_inputs(data):
    model = data.draw(models(dtypes=("float32", "float16", "float64")))
    feed = data.draw(feeds(model))
    for info in model.graph.input:
        kind = info.type.tensor_type
        array = feed[info.name]
        assert onnx.helper.np_dtype_to_tensor_dtype(array.dtype) == kind.elem_type
        for have, dim in zip(array.shape, kind.shape.dim, strict=True):
            assert have == dim.dim_value or (dim.dim_param and have in (1, 3))
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()


def test_indices_keep_within_the_table():
    text = "g (int64[N,9] i) => (float[N,9,2] y) { y = Gather (W, i) }"
    model = from_proto(build(text, W=draw(5, 2)))
    for seed in range(20):
        assert feed_of(model, "large", 3, seed)["i"].max() < 5


def test_equal_seeds_give_equal_feeds_and_others_do_not():
    model = from_proto(product())
    one, same, other = (feed_of(model, "normal", 3, seed)["x"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_input_without_a_shape_is_refused():
    model = build("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ValueError, match="the input x has no type or no number of axes"):
        feed_of(from_proto(model))


def test_an_input_of_text_is_refused():
    model = build("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ValueError, match="not drawn"):
        feed_of(from_proto(model))


# --------------------------------------------------------------------------------------- plugin

COUNTING = """
    from hypothesis import given
    from hypothesis import strategies as st
    from onnx_compress.testing import examples

    seen = []

    @examples(30)
    @given(st.integers(0, 10**9))
    def test_counts(number):
        seen.append(number)

    def test_says_how_many():
        raise AssertionError(f"it was {len(seen)} times")
"""


def pytest_run(folder: Path, *options: str) -> str:
    (folder / "test_it.py").write_text(textwrap.dedent(COUNTING))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "it was 30 times"),
        (("--onnx-compress-examples", "7"), "it was 7 times"),
        (("--onnx-compress-examples=1",), "it was 1 times"),
        (("--onnx-compress-examples", "many"), "invalid int value: 'many'"),
    ],
)
def test_the_option_of_pytest_sets_how_many_examples_are_tried(tmp_path, options, said):
    assert said in pytest_run(tmp_path, *options)


def test_no_examples_are_refused(tmp_path):
    text = pytest_run(tmp_path, "--onnx-compress-examples", "0")
    assert "it must be at least 1" in text
    assert "INTERNALERROR" not in text


def test_without_hypothesis_the_import_says_what_to_install():
    code_ = "import sys; sys.modules['hypothesis'] = None; import onnx_compress.testing"
    done = subprocess.run([sys.executable, "-c", code_], capture_output=True, text=True, cwd="/")
    assert done.returncode
    last = done.stderr.strip().splitlines()[-1]
    assert "hypothesis is not installed" in last
    assert 'pip install "onnx-compress[testing]"' in done.stderr


BLOCKED = """
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if "hypothesis" in name:
                raise ModuleNotFoundError(f"No module named {name!r}")

    sys.meta_path.insert(0, Blocked())
    import pytest

    sys.exit(pytest.main(["-p", "no:hypothesispytest", "-p", "no:cacheprovider"]))
"""


def test_without_hypothesis_pytest_still_runs(tmp_path):
    """The plugin is loaded wherever onnx-compress is installed, with or without [testing]."""
    (tmp_path / "test_it.py").write_text("def test_nothing(): pass")
    command = [sys.executable, "-c", textwrap.dedent(BLOCKED)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
