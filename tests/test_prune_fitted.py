"""prune with patterns and data: zeros where the pattern says, the rest fitted to inputs."""

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_compress.ir.errors import OptionError, PreconditionError
from onnx_compress.ir.graph import clone, from_proto, invariants, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.densify import densify
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.prune import Prune

from graphs import run
from models_by_text import (
    build,
    draw,
    same_numbers_in_any_order,  # noqa: F401
)

LAYERS = (
    "g (float[N,32] x) => (float[?,?] y) { a = MatMul (x, A)  b = Relu (a)  y = MatMul (b, B) }"
)


def layers(seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((64, 32)).astype("f") * np.logspace(-1, 1, 32, dtype="f")
    weights = {"A": rng.standard_normal((32, 64)).astype("f"), "B": rng.standard_normal((64, 48))}
    weights["B"] = weights["B"].astype("f")
    data = tuple(
        {"x": (rng.standard_normal((16, 64)) @ mix).astype("f") / 8} for _ in range(24)
    )  # inputs that have to do with each other
    return build(LAYERS, **weights), data[:16], data[16:]


def pruned(proto, fit, **options):
    model = from_proto(proto)
    feed = fit[0] if fit else {"x": draw(4, 32)}
    report = Prune(**options).run(model, Context(targets.load("avx2"), feed, fit))
    invariants.check(model)
    return model, report


def loss(proto, model, feeds):
    one = np.concatenate([run(from_proto(proto), **feed)[0] for feed in feeds])
    other = np.concatenate([run(model, **feed)[0] for feed in feeds])
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def matrices(model):
    """Rows = output features."""
    densify(model)
    return {w.name: w.uses[0].matrix(w.array())[0] for w in find_weights(model)}


@pytest.mark.parametrize(
    ("score", "fitted"), [("magnitude", False), ("magnitude", True), ("wanda", True), ("obs", True)]
)
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "16x1", "unstructured"])
def test_zeros_lie_as_the_pattern_says(fitted, score, pattern):
    proto, fit, _ = layers()
    sparsity = None if ":" in pattern else 0.5
    model, report = pruned(
        proto, fit if fitted else (), sparsity=sparsity, pattern=pattern, score=score
    )
    for matrix in matrices(model).values():
        zero = matrix == 0
        assert zero.mean() == 0.5
        if ":" in pattern:
            n, m = map(int, pattern.split(":"))
            assert (zero.reshape(len(matrix), -1, m).sum(-1) == m - n).all()
        elif pattern == "16x1":
            columns = zero.reshape(-1, 16, matrix.shape[1])
            assert (columns.all(1) | ~columns.any(1)).all()
    assert len(report.changes) == 2
    assert all(("refitted" in entry.text) == fitted for entry in report.changes)


def test_each_step_from_sizes_to_a_refit_is_better_on_other_inputs():
    proto, fit, judge = layers()
    found = [
        loss(proto, pruned(proto, fit, sparsity=0.5, **options)[0], judge)
        for options in (
            {"score": "magnitude", "refit": False},
            {"score": "wanda", "refit": False},
            {"score": "wanda"},
            {"score": "obs"},
        )
    ]
    assert found[1] < found[0]
    assert found[2] < 0.8 * found[1]
    assert found[3] < 1.1 * found[2]


def test_one_threshold_takes_more_from_layers_that_matter_less():
    proto, fit, judge = layers()
    for tensor in proto.graph.initializer:
        if tensor.name == "A":  # most of it hardly counts
            scale = np.where(np.random.default_rng(9).uniform(size=(32, 64)) < 0.8, 1e-2, 1)
            scale = scale.astype("f")
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, "A"))
    each, _ = pruned(proto, fit, sparsity=0.5)
    every, _ = pruned(proto, fit, sparsity=0.5, allocation="global")
    zeros = {name: float((m == 0).mean()) for name, m in matrices(every).items()}
    sizes = {"A": 32 * 64, "B": 64 * 48}
    total = sum(zeros[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert abs(total - 0.5) < 0.02
    assert zeros["A"] > zeros["B"] + 0.2
    assert loss(proto, every, judge) < loss(proto, each, judge)


def test_weights_out_of_reach_are_fitted_to_the_inputs_of_the_original():
    rng = np.random.default_rng(1)
    proto = build(
        "g (float[6,1,12] x) => (float[?,?,?,?] y) { y = LSTM <hidden_size=16> (x, W, R) }",
        W=rng.standard_normal((1, 64, 12)).astype("f"),
        R=rng.standard_normal((1, 64, 16)).astype("f"),
    )
    fit = tuple({"x": rng.standard_normal((6, 1, 12)).astype("f")} for _ in range(32))
    model, report = pruned(proto, fit, sparsity=0.5)
    assert {e.subject for e in report.changes if "refitted" in e.text} == {"W", "R"}
    densify(model)
    assert all((w.array() == 0).mean() == 0.5 for w in find_weights(model))


def test_scores_of_inputs_need_inputs():
    with pytest.raises(PreconditionError, match="wanda"):
        pruned(layers()[0], (), sparsity=0.5, score="wanda")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pattern": "2:4", "sparsity": 0.6}, "sparsity of 0.5"),
        ({"pattern": "2:4", "allocation": "global"}, "same in every layer"),
        ({"score": "wanda"}, "single weights"),
        ({"channels": 0.3, "pattern": "16x1"}, "single weights"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, text):
    with pytest.raises(OptionError, match=text):
        Prune(**options)


def test_a_pattern_of_halves_says_how_many():
    assert Prune(pattern="2:4").phase == Prune(sparsity=0.5).phase
    assert Prune(pattern="2:4").obeyed


def test_large_weights_are_stored_without_their_zeros_and_the_report_says_what_that_is_worth():
    proto = build("g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(96, 80))
    model, report = pruned(proto, (), sparsity=0.5)
    assert len(to_proto(model).SerializeToString()) < 0.7 * len(proto.SerializeToString())
    assert any("do not speed up ONNX Runtime" in note for note in report.notes)
    again = clone(model)
    repeated = Prune(sparsity=0.5).run(again, Context(targets.load("avx2"), {}))
    assert not repeated.modified
    np.testing.assert_array_equal(matrices(model)["W"], matrices(again)["W"])


def test_what_a_pattern_does_not_fit_into_stays_with_a_reason():
    proto = build(
        "g (float[1,96,8] x) => (float[?,?,?] y) { y = Conv <group=96, kernel_shape=[1]> (x, W) }",
        W=draw(96, 1, 1),
    )
    _, report = pruned(proto, ({"x": draw(1, 96, 8)},), pattern="2:4")
    assert not report.modified
    (entry,) = report.skipped
    assert entry.subject == "W"
    assert "too narrow" in entry.text


def test_nothing_is_added_to_what_has_no_bias_and_means_are_kept_all_the_same():
    rng = np.random.default_rng(0)
    proto = build(
        "g (float[N,32] x) => (float[?,?] y) { y = MatMul (x, A) }",
        A=rng.standard_normal((32, 24)).astype("f"),
    )
    mix = rng.standard_normal((40, 32)).astype("f")
    data = [{"x": (rng.standard_normal((16, 40)) @ mix + 9).astype("f")} for _ in range(32)]
    model, _ = pruned(proto, tuple(data[:24]), sparsity=0.5)
    densify(model)
    assert [node.op for node in model.nodes()] == ["MatMul"]
    masked, _ = pruned(proto, tuple(data[:24]), sparsity=0.5, refit=False)
    assert loss(proto, model, data[24:]) < 0.6 * loss(proto, masked, data[24:])


@pytest.mark.parametrize("bias", ["c", "v"])
def test_a_bias_that_would_grow_or_be_copied_stays(bias):
    weights = {"W": draw(6, 24), "c": draw(1), "v": draw(24), "V": draw(24, 24)}
    weights = {"W": weights["W"], "V": weights["V"], bias: weights[bias]}
    proto = build(
        f"g (float[N,6] x) => (float[?,?] y, float[?] z) {{"
        f"h = Gemm(x, W, {bias}) g = Relu(h) y = MatMul(g, V) z = Neg({bias}) }}",
        **weights,
    )
    fit = tuple({"x": draw(8, 6)} for _ in range(4))
    model, _ = pruned(proto, fit, sparsity=0.5)
    kept = {value.name: model.constant(value) for value in model.graph.initializers}
    assert np.array_equal(kept[bias], weights[bias])
    assert [name for name, array in kept.items() if array.shape == (24,)] == (["v"] * (bias == "v"))


def test_groups_of_a_product_have_no_bias_in_common():
    rng = np.random.default_rng(0)
    proto = build(
        "g (float[3,16,32] x) => (float[?,?,?] y) { y = MatMul (x, A) }",
        A=rng.standard_normal((3, 32, 24)).astype("f"),
    )
    fit = tuple({"x": rng.standard_normal((3, 16, 32)).astype("f") + 2} for _ in range(24))
    model, report = pruned(proto, fit, sparsity=0.5)
    assert run(model, **fit[0])[0].shape == (3, 16, 24)
    assert "refitted" in report.changes[0].text
    assert [n.op for n in model.nodes() if n.op in ("Add", "MatMul")] == ["MatMul"]
