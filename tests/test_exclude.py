"""Weights that are left alone, by name or by an earlier report; and which layer it is."""

import glob
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_compress import Summary, compress, report
from onnx_compress.cli import main
from onnx_compress.result import Layer

from graphs import parsed, product, weight
from places import contents

ROWS = np.random.default_rng(3).standard_normal((16, 64)).astype("float32")
DATA = {"x": ROWS}
QUANT, PRUNE = "quant(bits=8)", "prune(sparsity=0.5)"
ODD = ["w[0]", "w0", "w*", "w?", "wa", "a b", "ä/漢", "-w", "[", "]", "!", "a\nb", "%s", "\\w"]


def chain(*called: str, nodes: tuple[str, ...] = (), **same: str) -> ModelProto:
    """Products one after the other; nodes are n0, n1, ... `same`: a weight as large as another."""
    lines, at = [], "x"
    for number in range(len(called)):
        lines.append(f"h{number} = MatMul ({at}, W{number})")
        at = f"h{number}"
    proto = parsed(f"(float[N,64] x) => (float[N,64] {at}) {{ {'  '.join(lines)} }}")
    for number, (name, node) in enumerate(zip(called, proto.graph.node, strict=True)):
        seed = called.index(same.get(name, name))
        proto.graph.initializer.append(numpy_helper.from_array(weight(seed) / 8, name))
        node.input[1], node.name = name, (nodes or [f"n{i}" for i in range(99)])[number]
    return proto


def changed(proto: ModelProto, *exclude: str, passes: str = QUANT, **options) -> set[str]:
    """Names of the weights that a run changes, as it reports and as the result tells."""
    done = compress(proto, passes, DATA, exclude=exclude, measure=False, **options)
    told = {e.subject for stage in done.report.stages for e in stage.report.changes}
    before, after = (
        {t.name: t.raw_data for t in model.graph.initializer if len(t.dims) == 2}
        for model in (proto, done.model)
    )
    found = {name for name, data in before.items() if after.get(name) != data}
    assert found == told
    return found


def layers(proto: ModelProto, passes: str = QUANT, **options) -> Summary:
    given = {"calibration": DATA, "measure": False, "layers": True} | options
    return compress(proto, passes, **given).report


# --------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("passes", [QUANT, PRUNE, "quant(bits=16)", f"{PRUNE},{QUANT}"])
@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("b", {"b"}),
        ("n1", {"b"}),
        ("?", {"a", "b", "c"}),
        ("n[02]", {"a", "c"}),
        ("*", {"a", "b", "c"}),
        ("B", set()),
        ("N1", set()),
    ],
)
def test_weights_are_left_alone_by_their_names_or_those_of_their_nodes(passes, pattern, left):
    assert changed(chain("a", "b", "c"), pattern, passes=passes) == {"a", "b", "c"} - left


@pytest.mark.parametrize("name", ODD)
def test_any_name_may_be_written_as_it_is(name):
    done = changed(chain(*ODD), name)
    assert name not in done
    if not set(name) & set("*?["):
        assert done == {*ODD} - {name}


def test_names_of_several_are_all_left_alone():
    assert changed(chain("a", "b", "c"), "a", "n2") == {"b"}


@pytest.mark.parametrize("exclude", ["", [""], ["a", ""], [3], [None]])
def test_what_is_no_name_is_refused(exclude):
    with pytest.raises(report.OptionError):
        compress(chain("a"), QUANT, exclude=exclude)


def test_a_name_that_matches_nothing_is_warned_of():
    proto = chain("a", "b")
    done = compress(proto, QUANT, DATA, exclude=["a", "nothing", "n1", "*"], measure=False)
    warned = [w for w in done.report.warnings if "--exclude" in w]
    assert len(warned) == 1
    assert "nothing" in warned[0]


def test_a_tied_weight_is_left_alone_in_all_its_uses():
    proto = parsed(
        """(int64[N] i, float[N,64] x) => (float[N,64] g, float[N,256] y) {
        g = Gather(E, i)  t = Transpose<perm = [1, 0]>(E)  y = MatMul(x, t) }""",
        E=np.random.default_rng(0).standard_normal((256, 64)).astype("float32"),
    )
    proto.graph.node[2].name = "head"
    for exclude, left in (("E", True), ("head", True), ("t", False)):
        done = compress(proto, QUANT, exclude=[exclude], measure=False)
        assert done.report.unchanged == left
    assert [layer.weight for layer in layers(proto, calibration=None).layers] == ["E"]


BRANCHES = """g (bool c, float[N,64] x) => (float[N,64] y) { y = If (c) <
    then_branch = t () => (float[N,64] r) { r = MatMul(x, w) },
    else_branch = e () => (float[N,64] s) { s = MatMul(x, OTHER) } > }"""


def branches(other: str) -> ModelProto:
    proto = parsed(BRANCHES.replace("OTHER", other))
    for number, name in enumerate(("w", other)):
        inner = proto.graph.node[0].attribute[number].g
        stored = weight(number) / 8 ** (number + 1)
        inner.initializer.append(numpy_helper.from_array(stored, name))
        inner.node[0].name = f"in branch {number}"
    return proto


BOTH = [{"c": np.array(n % 4 < 2), "x": ROWS} for n in range(8)]


def stored_in_branches(proto: ModelProto) -> list[str]:
    kinds = [{t.data_type for t in a.g.initializer} for a in proto.graph.node[0].attribute]
    return ["float" if found == {TensorProto.FLOAT} else "coded" for found in kinds]


@pytest.mark.parametrize("pattern", ["v", "in branch 1", "*1"])
def test_weights_in_branches_are_left_alone(pattern):
    done = compress(branches("v"), QUANT, BOTH, exclude=[pattern], measure=False)
    assert [e.subject for s in done.report.stages for e in s.report.changes] == ["w"]
    done = compress(branches("v"), PRUNE, BOTH, exclude=[pattern], measure=False)
    assert [e.subject for s in done.report.stages for e in s.report.changes] == ["w"]


# -------------------------------------------------------------------------------- after clean-up


def test_a_weight_that_equals_another_is_left_alone_all_the_same():
    proto = chain("a", "b", b="a")
    assert np.array_equal(*(numpy_helper.to_array(t) for t in proto.graph.initializer))
    for exclude in ("a", "b", "n0", "n1"):
        done = compress(proto, QUANT, DATA, exclude=[exclude], measure=False)
        kinds = {node.name: node.input[1] for node in done.model.graph.node if node.name}
        stored = {t.name: t.data_type for t in done.model.graph.initializer}
        left = "n0" if exclude in ("a", "n0") else "n1"
        assert stored.get(kinds.get(left)) == TensorProto.FLOAT, exclude


def computed() -> ModelProto:
    """The product reads an expression of constants, which clean-up makes a weight."""
    proto = parsed(
        "(float[N,64] x) => (float[N,64] y) { w = Mul(a, b)  y = MatMul(x, w) }",
        a=weight(0), b=weight(1)[:1],
    )  # fmt: skip
    proto.graph.node[1].name = "head"
    return proto


def test_no_warning_tells_that_a_name_is_in_vain_which_is_not():
    (layer,) = layers(computed()).layers
    for exclude in ("head", layer.weight):
        done = compress(computed(), QUANT, DATA, exclude=[exclude], measure=False)
        assert not any(e for s in done.report.stages[1:] for e in s.report.changes)
        assert not any("--exclude" in warning for warning in done.report.warnings)


def test_batch_normalization_is_folded_into_a_weight_that_is_left_alone():
    rng = np.random.default_rng(0)
    positive = rng.uniform(0.5, 1, 16).astype("float32")
    proto = parsed(
        """(float[1,8,6,6] x) => (float[1,16,4,4] y) {
        c = Conv(x, W)  y = BatchNormalization(c, g, g, g, g) }""",
        W=rng.standard_normal((16, 8, 3, 3)).astype("float32"), g=positive,
    )  # fmt: skip
    proto.graph.node[0].name = "conv"
    for exclude in ("W", "conv"):
        done = compress(proto, QUANT, exclude=[exclude], measure=False)
        assert [node.op_type for node in done.model.graph.node] == ["Conv"]
        assert {t.data_type for t in done.model.graph.initializer} == {TensorProto.FLOAT}


# --------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("passes", [QUANT, f"{PRUNE},{QUANT}"])
def test_every_weight_has_an_error_of_its_own(passes):
    found = layers(chain(*"abcdef"), passes)
    errors = [layer.error for layer in found.layers]
    assert {layer.weight for layer in found.layers} == set("abcdef")
    assert errors == sorted(errors, reverse=True)
    assert min(errors) > 0
    whole = sum(error**2 for error in errors) ** 0.5
    assert found.error / 1.5 < whole < found.error * 1.5


def test_an_error_alone_is_that_of_a_run_that_leaves_the_others_alone():
    proto = chain("a", "b", "c")
    alone = {layer.weight: layer.error for layer in layers(proto).layers}
    for name in "abc":
        others = [other for other in "abc" if other != name]
        done = compress(proto, QUANT, DATA, exclude=others, measure=False)
        assert alone[name] == pytest.approx(done.report.error, rel=1e-6)


@pytest.mark.parametrize("called", [ODD, ["*", "a"], ["n1", "n0"]])
def test_layers_may_have_any_name(called):
    """Also that of a node which reads another weight."""
    found = {layer.weight: layer.error for layer in layers(chain(*called)).layers}
    assert set(found) == set(called)
    assert min(found.values()) > 0


def test_layers_of_one_name_in_two_branches_are_told_apart():
    apart = sorted(layer.error for layer in layers(branches("v"), calibration=BOTH).layers)
    same = sorted(layer.error for layer in layers(branches("w"), calibration=BOTH).layers)
    assert len(apart) == 2
    assert same == pytest.approx(apart, rel=1e-3)


def test_a_weight_that_is_left_alone_is_no_layer():
    found = layers(chain("a", "b"), exclude=["a"])
    assert [layer.weight for layer in found.layers] == ["b"]
    assert layers(chain("a"), exclude=["a"]).layers == ()


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.3, 0.1], ["0"]),
        ([0.1, 0.1], []),
        ([0.2, 0.2, 0.2], ["0", "1", "2"]),
        ([float("inf"), 0.1], ["0"]),
        ([float("inf"), float("inf"), 0.3, 0.1], ["0", "1", "2"]),
        ([], []),
    ],
)
def test_the_fewest_are_suggested_that_bring_the_error_down(errors, expected):
    found = tuple(Layer(str(at), error, 0.0) for at, error in enumerate(errors))
    assert report.worst(found, 0.15) == expected


# ---------------------------------------------------------------------------------- exclude-from


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **DATA)
    return tmp_path


def write(proto: ModelProto) -> None:
    Path("in.onnx").write_bytes(proto.SerializeToString())


COMMAND = ["in.onnx", "out.onnx", "--calib", "data.npz", "--passes", QUANT, "--quiet"]


@pytest.mark.parametrize("called", ["abcdef", ODD], ids=["plain", "odd"])
def test_what_a_report_suggests_brings_the_error_down(called, place, capsys):
    """It is refused, then it is not; and no more is left alone than was suggested."""
    write(chain(*called))
    limit = layers(chain(*called)).error * 0.7
    again = [*COMMAND, "--max-error", str(limit), "--layers", "--report", "r.json"]
    assert main(again) == 6
    first = json.loads(Path("r.json").read_text())
    assert first["verdict"] == "refused"
    assert {layer["weight"] for layer in first["layers"]} == set(called)
    assert set(first["exclude"]) < {glob.escape(name) for name in called}
    for _ in range(2):  # errors are taken to add as squares, which they do only about
        if main([*again, "--exclude-from", "r.json"]) == 0:
            break
    second = json.loads(Path("r.json").read_text())
    assert second["quality"]["error"] <= limit
    done = {entry["subject"] for stage in second["stages"] for entry in stage["changes"]}
    left = {*first["exclude"], *second["exclude"]}
    assert done == {name for name in called if glob.escape(name) not in left}
    assert len(done) >= len(called) // 3


def test_what_was_asked_for_and_what_a_report_says_are_both_left_alone(place):
    write(chain("a", "b", "c"))
    Path("r.json").write_text('{"exclude": ["a", "a"]}')
    both = ["--exclude", "n1", "--exclude-from", "r.json"]
    assert main([*COMMAND, *both, "--report", "s.json"]) == 0
    found = json.loads(Path("s.json").read_text())
    assert sorted(found["exclude"]) == ["a", "n1"]
    kept = {t.name for t in onnx.load("out.onnx").graph.initializer}
    assert {"a", "b"} <= kept
    assert "c" not in kept


REPORTS = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a text": '"exclude"',
    "null": "null",
    "no names": "{}",
    "names in a table": '{"exclude": {"a": 1}}',
    "one name": '{"exclude": "a"}',
    "numbers": '{"exclude": [1]}',
    "lists": '{"exclude": [["a"]]}',
    "an empty name": '{"exclude": [""]}',
    "nothing left alone": '{"exclude": []}',
    "very deep": "[" * 100_000,
    "a model": product().SerializeToString().decode("latin-1"),
    "a folder": None,
    "missing": False,
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_malformed_report_is_a_wrong_command(name, place, capsys):
    write(product())
    content = REPORTS[name]
    if content is None:
        (place / "r.json").mkdir()
    elif content is not False:
        (place / "r.json").write_text(content, "latin-1")
    before = contents(place)
    assert main([*COMMAND, "--exclude-from", "r.json"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert contents(place) == before
