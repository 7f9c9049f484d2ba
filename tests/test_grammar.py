"""Pipelines as text: both ways, and what is said where the text is wrong."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnx_compress.ir.errors import (
    OptionError,
    OrderError,
    PipelineError,
    SyntaxProblem,
    UnknownPassError,
)
from onnx_compress.passes import Pass, Phase, Pipeline, registry
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

folds = st.builds(Fold)
prunes = st.builds(Prune, sparsity=st.none() | st.floats(0, 0.99))
quants = st.builds(
    Quant,
    bits=st.sampled_from([None, 8, 16]),
    activations=st.sampled_from([None, "int8", "float"]),
)
pipelines = st.lists(folds | prunes | quants, min_size=1, max_size=5).map(
    lambda passes: Pipeline(tuple(sorted(passes, key=lambda item: item.phase)))
)
spaces = st.sampled_from(["", " ", "  ", "\t"])


@given(pipelines)
def test_a_pipeline_written_out_and_read_is_the_same(pipeline: Pipeline):
    assert Pipeline.parse(str(pipeline)) == pipeline


@given(pipelines, spaces)
def test_spaces_do_not_matter(pipeline: Pipeline, space: str):
    text = str(pipeline)
    for sign in "(),=":
        text = text.replace(sign, f"{space}{sign}{space}")
    assert Pipeline.parse(text) == pipeline


def test_options_may_be_bare_words_or_strings():
    bare, quoted = (
        Pipeline.parse("quant(activations=float)"),
        Pipeline.parse("quant(activations='float')"),
    )
    assert bare == quoted == Pipeline((Quant(activations="float"),))


def test_defaults_are_not_written_out():
    assert str(Pipeline((Fold(), Prune(), Quant(bits=8)))) == "fold,prune,quant(bits=8)"


def test_none_is_the_default():
    assert Pipeline.parse("prune(sparsity=none)") == Pipeline((Prune(),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("prune,quant", "fold,prune,quant"), ("fold,quant", "fold,quant"), ("fold", "fold")],
)
def test_clean_up_comes_first_once(text: str, expected: str):
    assert str(Pipeline.parse(text, fold=True)) == expected


@pytest.mark.parametrize("name", registry.names())
def test_every_installed_pass_is_found_by_its_name(name: str):
    kind = registry.find(name)
    assert issubclass(kind, Pass)
    assert kind.name == name
    assert kind().phase in Phase


def _caret(error: SyntaxProblem) -> int:
    *_, text, marker = str(error).split("\n")
    assert set(marker.strip()) == {"^"}
    return marker.index("^") - (len(text) - len(text.lstrip()))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("prune,3", "3"),
        ("prune,'quant'", "'quant'"),
        ("prune(0.5)", "0.5"),
        ("prune(sparsity=0.5),quant(8)", "8"),
        ("quant(bits=8),sparsity=0.5", "sparsity"),
        ("quant(**options)", "**"),
        ("prune,*quant", "*"),
        ("quant(bits=8+x)", "8+x"),
        ("prune,quant.bits(8)", "quant."),
        ("prune,[quant]", "["),
        ("prune;quant", ";"),
        ("prune(sparsity=0.5,,)", ",)"),
        ("quant(bits=)", "bits=)"),  # from Python 3.12 on at the name, before at the bracket
        ("prune,quant(bits=8]", "]"),
    ],
)
def test_the_caret_stands_under_the_place(text: str, at: str):
    with pytest.raises(SyntaxProblem) as caught:
        Pipeline.parse(text)
    assert text in str(caught.value)
    place = text.index(at)
    assert place <= _caret(caught.value) <= place + len(at)
    assert caught.value.hint


@given(st.text("äß漢é", min_size=1, max_size=5))
def test_the_caret_counts_letters_and_not_bytes(word: str):
    text = f"prune(activations='{word}'),3"
    with pytest.raises(PipelineError):
        Pipeline.parse(text)
    text = f"{word},sparsity=1"
    with pytest.raises(SyntaxProblem) as caught:
        Pipeline.parse(text)
    assert _caret(caught.value) == text.index("sparsity")


@pytest.mark.parametrize("text", ["", " ", "\n", "prune),(quant", "prune)(quant", "prune)+f(quant"])
def test_what_is_no_list_of_passes_is_refused(text: str):
    with pytest.raises(SyntaxProblem) as caught:
        Pipeline.parse(text)
    assert "prune" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "nearest"), [("qant", "quant"), ("Prune", "prune"), ("folds", "fold")]
)
def test_an_unknown_pass_gets_the_nearest_name_suggested(name: str, nearest: str):
    with pytest.raises(UnknownPassError) as caught:
        Pipeline.parse(f"{name}(bits=8)")
    assert name in str(caught.value)
    assert repr(nearest) in caught.value.hint


def test_an_unknown_pass_like_no_other_gets_all_names():
    with pytest.raises(UnknownPassError) as caught:
        Pipeline.parse("xyzzy")
    assert all(name in caught.value.hint for name in registry.names())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune(sparsity=1.5)", "sparsity"),
        ("prune(sparsity=-0.1)", "sparsity"),
        ("prune(sparsity=1e400)", "sparsity"),
        ("prune(sparsity=half)", "half"),
        ("prune(sparsity=true)", "True"),
        ("prune(sparsity=[0.5])", "sparsity"),
        ("quant(bits=7)", "16, 8"),
        ("quant(bits=8.0)", "8.0"),
        ("quant(bits='8')", "int"),
        ("quant(bits=true)", "bits"),
        ("quant(activations=int4)", "int8, float"),
        ("quant(activations=8)", "str"),
        ("quant(bit=8)", "bit"),
        ("fold(bits=8)", "bits"),
    ],
)
def test_a_wrong_option_is_named(text: str, said: str):
    with pytest.raises(OptionError) as caught:
        Pipeline.parse(text)
    assert said in str(caught.value)
    assert text.partition("(")[0] in str(caught.value)
    assert caught.value.hint


def test_an_unknown_option_gets_the_known_ones_listed():
    with pytest.raises(OptionError) as caught:
        Pipeline.parse("quant(bit=8)")
    assert "bits" in caught.value.hint
    assert "activations" in caught.value.hint


def test_an_option_given_twice_is_refused():
    with pytest.raises(PipelineError):
        Pipeline.parse("quant(bits=8,bits=16)")


@pytest.mark.parametrize("value", [float("nan"), 2, "0.5", True])
def test_options_are_checked_in_python_too(value: object):
    with pytest.raises(OptionError):
        Prune(sparsity=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [("quant(bits=8)", "prune(sparsity=0.5)"), ("prune", "fold"), ("quant", "fold")],
)
def test_a_wrong_order_names_both_passes(first: str, second: str):
    with pytest.raises(OrderError) as caught:
        Pipeline.parse(f"{first},{second}")
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert f"{second},{first}" in caught.value.hint


@given(st.lists(folds | prunes | quants, min_size=2, max_size=5))
def test_an_order_is_refused_exactly_where_a_phase_goes_back(passes: list[Pass]):
    phases = [item.phase for item in passes]
    if phases == sorted(phases):
        assert Pipeline(tuple(passes)).passes == tuple(passes)
    else:
        with pytest.raises(OrderError):
            Pipeline(tuple(passes))


TOKENS = (
    "prune quant fold sparsity bits = == ( ) , 8 0.5 [ ] { } : + - * ** ' \" true None lambda "
    "if else for in x . ; # \\ \n \x00 := ä f'' 1j b'' 1e999 not await yield"
).split(" ")


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join) | st.text(max_size=20))
@example("quant(bits={[1]: 2})")
@example("quant(bits={{}})")
@example("quant(bits=" + "-" * 3000 + "1)")
@example("quant(bits=" + "1" * 5000 + ")")
@example("quant(bits=0x" + "f" * 5000 + ")")
@example("f(" * 300)
@example("x" + ".x" * 5000)
@example("prune\\")
@example("\ud800")
def test_any_text_is_read_or_refused_with_a_pipeline_error(text: str):
    try:
        passes, hint = Pipeline.parse(text).passes, ""
    except PipelineError as error:
        passes, hint = (), error.hint
    assert bool(passes) != bool(hint)
