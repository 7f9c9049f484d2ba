"""prune(channels=), prune(macs=): what goes, how much, and what the rest makes up for."""

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnx_compress import inspect
from onnx_compress.cli import main
from onnx_compress.ir.analysis.channels import Twins
from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model, clone, files, from_proto, invariants
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes import Context, Phase, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.bias import add_to_bias
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.prune.allocate import step_of
from onnx_compress.passes.prune.repair import parts, repair, solved
from onnx_compress.passes.prune.structure import Request, prune_structure

from graphs import parsed, run

RNG = np.random.default_rng(5)
WIDE = 64


def layers(redundant: int = 0, seed: int = 0) -> ModelProto:
    """x W1 -> Relu -> W2 -> Relu -> W3; the last `redundant` columns of W1 repeat the first."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((16, WIDE)).astype("f") / 4
    if redundant:
        first[:, -redundant:] = first[:, :redundant]
    weights = {
        "W1": first,
        "b1": rng.standard_normal(WIDE).astype("f") / 4,
        "W2": rng.standard_normal((WIDE, WIDE)).astype("f") / 8,
        "W3": rng.standard_normal((WIDE, 8)).astype("f") / 8,
    }
    if redundant:
        weights["b1"][-redundant:] = weights["b1"][:redundant]
    return parsed(
        "(float[N,16] x) => (float[N,8] y) { a = MatMul(x, W1) b = Add(a, b1) c = Relu(b) "
        "d = MatMul(c, W2) e = Relu(d) y = MatMul(e, W3) }",
        **weights,
    )


def feeds(count: int = 16, rows: int = 32, seed: int = 0) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(seed)
    return tuple({"x": rng.standard_normal((rows, 16)).astype("f")} for _ in range(count))


def pruned(
    proto: ModelProto, request: Request, fit: tuple[dict[str, np.ndarray], ...] = (), **options
) -> tuple[Model, Report]:
    model = from_proto(proto)
    context = Context(targets.load("avx2"), feeds(1)[0], fit, **options)
    report = prune_structure(model, context, request)
    invariants.check(model)
    return model, report


def error(proto: ModelProto, model: Model) -> float:
    """Relative, on inputs that nothing was fitted to."""
    (feed,) = feeds(1, 512, 99)
    (one,), (other,) = run(proto, **feed), run(model, **feed)
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.shape for weight in find_weights(model)}


@pytest.mark.parametrize("fit", [(), feeds()], ids=["no data", "data"])
def test_a_share_of_the_channels_goes(fit):
    model, report = pruned(layers(), Request(0.25, "channels"), fit)
    found = shapes(model)
    left = found["W1"][1] + found["W2"][1]
    assert left <= 0.75 * 2 * WIDE
    assert left > 0.5 * 2 * WIDE
    assert found["W1"][1] == found["W2"][0]
    assert found["W2"][1] == found["W3"][0]
    assert all(size % 8 == 0 for size in (found["W1"][1], found["W2"][1]))
    assert {entry.subject for entry in report.changes} >= {"W2"}


def test_a_share_of_the_multiply_accumulates_is_saved():
    model, report = pruned(layers(), Request(0.5, "macs"), feeds())
    before, after = (
        sum(int(np.prod(s)) for s in shapes(m).values()) for m in (from_proto(layers()), model)
    )
    assert after <= 0.5 * before
    assert "fewer multiply-accumulates" in report.summary


def test_channels_go_until_the_time_estimated_is_reached():
    model, report = pruned(layers(), Request(1 - 1 / 1.5, "time"), feeds())
    target = targets.load("avx2")

    def time(of: Model) -> float:
        found = shapes(of)
        macs = sum(int(np.prod(s)) for s in found.values())
        # of MatMul, Add, Relu; of MatMul, Relu; of MatMul
        moved = 3 * found["W1"][1] + 2 * found["W2"][1] + found["W3"][1]
        return macs + target.motion * moved

    faster = time(from_proto(layers())) / time(model)
    assert 1.5 <= faster < 2.2
    (note,) = report.notes
    assert f"estimated {faster:.2f}x" in note
    assert "avx2" in note


def test_a_speed_out_of_reach_is_told():
    _, report = pruned(layers(), Request(1 - 1 / 20, "time"), feeds())
    assert "no more channels can go" in report.notes[0]


def test_channels_that_say_the_same_go_first_and_cost_nothing():
    proto = layers(redundant=16)
    model, _ = pruned(proto, Request(0.12, "channels"), feeds(32))
    assert shapes(model)["W1"][1] < WIDE
    assert error(proto, model) < 0.03


def test_channels_that_never_vary_are_taken_over_by_the_bias():
    proto = layers()
    for tensor in proto.graph.initializer:
        if tensor.name == "b1":
            bias = numpy_helper.to_array(tensor).copy()
            bias[:16] = -100  # dead after Relu
            tensor.CopyFrom(numpy_helper.from_array(bias, "b1"))
    model, _ = pruned(proto, Request(0.1, "channels"), feeds(32))
    assert shapes(model)["W1"][1] <= WIDE - 8
    assert error(proto, model) < 1e-3


def test_refitted_weights_are_better_than_cut_ones_and_the_choice_than_a_random_one():
    proto = layers()
    errors = {
        name: error(proto, pruned(proto, Request(0.25, "channels", score, refit), feeds(32))[0])
        for name, score, refit in (
            ("ours", None, None),
            ("cut", None, False),
            ("random", "random", None),
        )
    }
    assert errors["ours"] < 0.7 * errors["cut"]
    assert errors["ours"] < errors["random"]


def test_equal_runs_give_equal_numbers():
    one, other = (pruned(layers(), Request(0.3, "channels"), feeds())[0] for _ in range(2))
    for a, b in zip(find_weights(one), find_weights(other), strict=True):
        assert np.array_equal(a.array(), b.array())


def test_excluded_weights_keep_their_channels():
    model, report = pruned(layers(), Request(0.3, "channels"), feeds(), exclude=("W2",))
    assert shapes(model)["W2"] == (WIDE, WIDE)
    assert any(entry.subject == "W2" and "excluded" in entry.text for entry in report.skipped)
    assert not report.changes


def test_a_model_without_channels_is_left_alone_with_reasons():
    proto = parsed(
        "(float[N,16] x) => (float[N,8] y) { y = MatMul(x, W) }", W=np.ones((16, 8), "f")
    )
    before = clone(from_proto(proto))
    model, report = pruned(proto, Request(0.5, "channels"))
    assert not report.modified
    assert shapes(model) == shapes(before)
    (entry,) = report.skipped
    assert "input of the model" in entry.text


@pytest.mark.parametrize(
    ("size", "width", "multiple", "step"),
    [
        (64, 1, 16, 16),
        (32, 1, 16, 8),
        (16, 1, 16, 4),
        (8, 1, 16, 4),
        (12, 32, 16, 1),
        (64, 1, 8, 8),
    ],
)
def test_counts_stay_multiples_that_are_computed_well(size, width, multiple, step):
    assert step_of(size, width, multiple) == step


def test_a_solution_is_held_back_where_the_halves_disagree():
    rng = np.random.default_rng(0)
    old = rng.standard_normal((3, 8))
    x = rng.standard_normal((2, 400, 8))
    inner = np.stack([half.T @ half / 400 for half in x])
    right = rng.standard_normal((3, 8))
    agreeing = np.stack([right @ half for half in inner])
    assert np.linalg.norm(solved(old, inner, agreeing) - right) < 0.05 * np.linalg.norm(right)
    noise = np.stack([old @ inner[0] + 1, old @ inner[1] - 1])
    assert np.array_equal(solved(old, inner, noise), old)


def test_the_phase_is_that_of_what_is_asked_for():
    assert Prune(channels=0.3).phase == Prune(macs=0.3).phase == Prune().phase == Phase.STRUCTURE
    assert Prune(sparsity=0.3).phase == Phase.MASK
    assert Prune(speed=1.5).phase == Phase.STRUCTURE
    assert Prune(speed=1.5).obeyed


def test_one_number_at_a_time():
    with pytest.raises(OptionError, match="channels and sparsity"):
        Prune(channels=0.3, sparsity=0.5)


def test_convolutions_lstm_and_heads_are_pruned_and_run():
    rng = np.random.default_rng(0)
    proto = parsed(
        "(float[2,3,12,12] x) => (float[2,5] y) { a = Conv<pads=[1,1,1,1]>(x, W) b = Relu(a) "
        "c = Conv<group=16, pads=[1,1,1,1]>(b, D) d = Relu(c) e = Conv(d, V, v) "
        "f = GlobalAveragePool(e) g = Flatten(f) y = Gemm<transB=1>(g, U) }",
        W=rng.standard_normal((16, 3, 3, 3)).astype("f"),
        D=rng.standard_normal((16, 1, 3, 3)).astype("f"),
        V=rng.standard_normal((32, 16, 1, 1)).astype("f"),
        v=rng.standard_normal(32).astype("f"),
        U=rng.standard_normal((5, 32)).astype("f"),
    )
    data = tuple({"x": rng.standard_normal((2, 3, 12, 12)).astype("f")} for _ in range(8))
    model = from_proto(proto)
    context = Context(targets.load("avx2"), data[0], data)
    report = prune_structure(model, context, Request(0.4, "channels"))
    found = shapes(model)
    assert found["W"][0] == found["D"][0] == found["V"][1] < 16 or found["V"][0] < 32
    assert run(model, **data[0])[0].shape == (2, 5)
    assert any("refitted" in entry.text for entry in report.changes)


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,16] x) => (float[N,8] y) { y = MatMul(x, W) }",
        "(float[N,16] x) => (float[N,8] y) { h = MatMul(x, W) y = Add(b, h) }",
        "(float[N,16] x) => (float[N,8] y) { h = MatMul(x, W) g = Add(h, b) y = Mul(g, h) }",
        "(float[N,16] x) => (float[N,8] y) { y = Gemm(x, W) }",
        "(float[N,16] x) => (float[N,8] y) { y = Gemm(x, W, b) }",
        "(float[N,16] x) => (float[N,8] y) { y = Gemm(x, W, one) }",
        "(float[N,16] x) => (float[N,8] y) { c = Identity(b) y = Gemm(x, W, c) }",
        "(float[N,16] x) => (float[N,8] y) "
        "{ h = MatMul(x, W) k = Identity(h) c = Identity(b) y = Add(c, k) }",
    ],
)
def test_a_vector_is_added_to_the_bias_there_is_or_to_a_new_one(text):
    rng = np.random.default_rng(2)
    weights = {"W": (16, 8), "b": (8,), "one": (1,)}
    proto = parsed(text, **{n: rng.standard_normal(s).astype("f") for n, s in weights.items()})
    model = from_proto(proto)
    (weight,) = [w for w in find_weights(model) if w.name == "W"]
    vector = rng.standard_normal(8)
    adds = sum(node.op == "Add" for node in model.nodes())
    assert add_to_bias(model, weight.uses[0], vector, grow=True)
    invariants.check(model)
    if "= Add" in text and "Mul(g" not in text:  # there is one to take it
        assert sum(node.op == "Add" for node in model.nodes()) == adds
    (feed,) = feeds(1)
    (one,), (other,) = run(proto, **feed), run(model, **feed)
    if " Mul(" in text:
        h = feed["x"] @ weight.array() + vector
        bias = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "b")
        assert np.allclose(other, (h + bias) * h, atol=1e-4)
    else:
        assert np.allclose(other, one + vector, atol=1e-4)


def test_weights_that_format_three_lists_as_inputs_lose_channels_too():
    proto = layers()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        shape = list(tensor.dims)
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, shape))
    model, report = pruned(proto, Request(0.4, "channels"), feeds())
    plain, expected = pruned(layers(), Request(0.4, "channels"), feeds())
    assert report.modified
    assert report.changes == expected.changes
    (feed,) = feeds(1)
    np.testing.assert_array_equal(run(model, **feed)[0], run(plain, **feed)[0])


def test_branches_that_give_out_channels_without_saying_their_type_still_load():
    inner = "b = MatMul(a, W2)"
    proto = parsed(
        "(float[N,16] x, bool c) => (float[N,8] y) { a = MatMul(x, W1) "
        f"h = If(c) <then_branch = t () => (b) {{ {inner} }}, else_branch = e () => (b) "
        f"{{ {inner} }}> y = MatMul(h, W3) }}",
        W1=RNG.standard_normal((16, WIDE)).astype("f"),
        W2=RNG.standard_normal((WIDE, WIDE)).astype("f"),
        W3=RNG.standard_normal((WIDE, 8)).astype("f"),
    )
    data = tuple({**feed, "c": np.array(True)} for feed in feeds())
    model = from_proto(proto)
    report = prune_structure(
        model, Context(targets.load("avx2"), data[0], data), Request(0.4, "channels")
    )
    assert report.modified
    assert run(model, **data[0])[0].shape == (32, 8)


def test_inspect_shows_groups_and_why_others_stay(tmp_path, capsys):
    path = tmp_path / "in.onnx"
    path.write_bytes(layers().SerializeToString())
    found = inspect(path, groups=True)
    assert {(row.name, row.channels) for row in found.groups} == {("W1", WIDE), ("W2", WIDE)}
    assert all(row.bytes > 0 and row.macs > 0 for row in found.groups)
    assert "an input of the model" in found.stuck
    assert main(["inspect", str(path), "--groups"]) == 0
    assert "an output of the model" in capsys.readouterr().out
    assert not inspect(path).groups


def test_what_a_residual_has_lost_is_made_up_for_by_what_is_added_to_it():
    text = (
        "(float[N,16] x) => (float[N,16] y) { r = Mul(x, k) c = MatMul(x, W) d = Add(c, b) "
        "y = Add(r, d) }"
    )
    rng = np.random.default_rng(4)
    weights = {"W": rng.standard_normal((16, 16)).astype("f"), "b": np.ones(16, "f")}
    original = from_proto(parsed(text, k=np.array(2, "f"), **weights))
    model = from_proto(parsed(text, k=np.array(1.5, "f"), **weights))  # half of x is lost
    items = parts(model, original, Twins(model, original).node, lambda node, slot, array: array)
    assert repair(model, original, items, feeds(32), lambda done, total: None)
    (feed,) = feeds(1, 64, 7)
    (one,), (other,) = run(original, **feed), run(model, **feed)
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)


def test_a_residual_that_is_not_final_is_not_looked_at():
    rng = np.random.default_rng(4)
    proto = parsed(
        "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, A) b = Relu(a) c = MatMul(b, B) "
        "d = MatMul(x, C) e = Relu(d) f = MatMul(e, D) y = Add(c, f) }",
        A=rng.standard_normal((16, WIDE)).astype("f"),
        B=rng.standard_normal((WIDE, 16)).astype("f"),
        C=rng.standard_normal((16, WIDE)).astype("f"),
        D=rng.standard_normal((WIDE, 16)).astype("f"),
    )
    model, _ = pruned(proto, Request(0.3, "channels"), feeds(32))
    for name in "BD":  # both branches are refitted, whichever comes first
        (weight,) = [w for w in find_weights(model) if w.name == name]
        assert weight.shape[0] < WIDE
    assert error(proto, model) < 0.5


def test_what_is_not_behind_anything_pruned_stays_as_it_is():
    rng = np.random.default_rng(1)
    beside = rng.standard_normal((16, 16)).astype("f")
    proto = layers()
    proto.graph.initializer.append(numpy_helper.from_array(beside, "A"))
    proto.graph.node.append(helper.make_node("MatMul", ["x", "A"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, ["N", 16]))
    # two samples of zeros and of few rows leave most of what is fitted to chance
    fit = (*feeds(1, rows=2), {"x": np.zeros((1, 16), "f")})
    model, report = pruned(proto, Request(0.4, "channels"), fit)
    assert report.modified
    (kept,) = [w for w in find_weights(model) if w.name == "A"]
    assert np.array_equal(kept.array(), beside)
    assert not [node for node in model.nodes() if node.op == "Add" and "z" in node.output.name]


def test_biases_that_are_added_cost_no_more_than_what_went():
    """Every product behind the one that is cut would like one."""
    behind = "".join(f"y{i} = MatMul(c, V{i}) " for i in range(6))
    outputs = ", ".join(f"float[N,4] y{i}" for i in range(6))
    first = "a = MatMul(x, W) b = Relu(a) c = MatMul(b, U)"
    text = f"(float[N,4] x) => ({outputs}) {{ {first} {behind} }}"
    shapes = {"W": (4, 8), "U": (8, 4), **{f"V{i}": (4, 4) for i in range(6)}}
    rng = np.random.default_rng(0)
    proto = parsed(text, **{n: rng.standard_normal(s).astype("f") for n, s in shapes.items()})
    fit = tuple({"x": 1 + rng.standard_normal((32, 4)).astype("f")} for _ in range(8))
    model = from_proto(proto)
    report = prune_structure(
        model, Context(targets.load("avx2"), fit[0], fit), Request(0.5, "channels")
    )
    assert sum("refitted" in entry.text for entry in report.changes) > 4
    assert files.file_size(model) <= files.file_size(from_proto(proto))
