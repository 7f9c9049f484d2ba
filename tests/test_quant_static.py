"""quant: convolutions of integers, with scales of activations that samples gave."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.ir.weights.forms.static import coded_bias
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.quant.static import shift
from onnx_compress.passes.quant.static.channels import lost
from onnx_compress.passes.quant.static.spare import Sensitivity, spared
from onnx_compress.passes.solvers.cut import minimum_cut

from models_by_text import all_ops, build, reasons, run

ALWAYS = dataclasses.replace(
    targets.load("avx2"), convolutions={"static": [[1, 1, 1, 4.0]]}, conversion=0.01, start=0
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def weights(**shapes):
    return {
        name: draw(*shape, seed=at) / np.float32(np.sqrt(np.prod(shape[1:])))
        for at, (name, shape) in enumerate(shapes.items())
    }


def feeds(*shape, count=8):
    return [{"x": draw(*shape, seed=100 + at)} for at in range(count)]


def quant(proto, fit, target=ALWAYS, exclude=(), **options):
    model = from_proto(proto)
    context = Context(target, fit[0], fit, exclude=exclude)
    report = Quant(bits=8, **options).run(model, context)
    invariants.check(model)
    return to_proto(model), report


def kernels(proto, feed, folder):
    """What is run, with names, types and shapes."""
    session_options = ort.SessionOptions()
    session_options.enable_profiling = True
    session_options.profile_file_prefix = str(folder / "p")
    session_options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), session_options)
    session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    return [e["args"] for e in ran]


def executed(proto, feed, folder):
    return Counter(each["op_name"] for each in kernels(proto, feed, folder))


def error(proto, small, fit):
    pairs = [(run(proto, feed)[0], run(small, feed)[0]) for feed in fit]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(noise / sum(float((a**2).sum()) for a, _ in pairs)))


RESIDUAL = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    d = Conv<pads=[1,1,1,1], group=64>(r, w2)
    e = Clip(d, low, high)
    p = Conv(e, w3)
    s = Add(p, r)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
    c = Concat<axis=1>(m, m)
    z = Sigmoid(c)
    v = Mul(c, z)
    g = GlobalAveragePool(v)
    y = Conv(g, w4)
}"""
NUMBERS = {
    **weights(w1=(64, 8, 3, 3), w2=(64, 1, 3, 3), w3=(64, 64, 1, 1), w4=(10, 128, 1, 1)),
    "b1": draw(64, seed=9),
    "low": np.float32(0),
    "high": np.float32(6),
}


def residual():
    return build(RESIDUAL, **NUMBERS)


def test_a_whole_chain_is_fused_into_operators_of_integers(tmp_path):
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, report = quant(proto, fit, activations="int8")
    assert "4 static" in report.summary
    ran = executed(small, fit[0], tmp_path)
    assert ran["QLinearConv"] == 4
    assert ran["QLinearAdd"] == ran["QLinearSigmoid"] == ran["QLinearMul"] == 1
    assert ran["QLinearGlobalAveragePool"] == 1
    assert ran["QuantizeLinear"] == ran["DequantizeLinear"] == 1  # in, and out
    for op in ("Conv", "Relu", "Clip", "Add", "Mul", "Sigmoid", "MaxPool", "FusedConv"):
        assert op not in ran
    assert error(proto, small, feeds(1, 8, 12, 12, count=4)) < 0.05


def test_weights_are_not_fitted_to_the_noise_of_bytes():
    """That would make them smaller, layer by layer: all are fitted to what the original sees."""
    proto, fit = residual(), feeds(1, 8, 12, 12)
    fitted, _ = quant(proto, fit)
    assert fitted == quant(proto, fit, sequential=False)[0]


def test_what_the_runtime_fuses_is_what_the_nodes_say():
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    for feed in fit[:3]:
        fused, plain = run(small, feed)[0], run(small, feed, optimized=False)[0]
        step = np.abs(plain).max() / 100
        assert np.abs(fused - plain).max() <= 2 * step


def test_without_data_activations_stay_float():
    model = from_proto(residual())
    Quant(bits=8).run(model, Context(ALWAYS, feeds(1, 8, 12, 12)[0]))
    assert "QuantizeLinear" not in all_ops(to_proto(model))


def test_float_activations_are_obeyed():
    small, _ = quant(residual(), feeds(1, 8, 12, 12), activations="float")
    assert "QuantizeLinear" not in all_ops(small)


def test_a_target_without_fast_convolutions_of_bytes_has_none():
    slow = dataclasses.replace(ALWAYS, convolutions={"static": [[1, 1, 1, 0.5]]})
    for target in (slow, dataclasses.replace(ALWAYS, convolutions={})):
        small, _ = quant(residual(), feeds(1, 8, 12, 12), target)
        assert "QuantizeLinear" not in all_ops(small)


def test_codes_keep_out_of_saturation():
    small, _ = quant(residual(), feeds(1, 8, 12, 12), activations="int8")
    arrays = [numpy_helper.to_array(t) for t in small.graph.initializer if t.data_type == 3]
    for codes in [array for array in arrays if array.ndim == 4 and array.shape[1] > 1]:
        runs = codes.astype(int).transpose(0, 2, 3, 1).reshape(len(codes), -1)  # place by place
        assert np.abs(runs[:, :-1:2] + runs[:, 1::2]).max() <= 128
        assert np.abs(runs).max() > 90


@pytest.mark.parametrize(("samples", "integers"), [(1, False), (8, True)])
def test_a_range_of_few_numbers_is_not_trusted(samples, integers):
    """The next sample would often be outside, and cut off."""
    proto = build(
        "g (float[1,2,2,2] x) => (float[?,?,?,?] y) "
        "{ h = Conv <pads=[1,1,1,1]> (x, W)  y = Relu (h) }",
        **weights(W=(64, 2, 3, 3)),
    )
    small, _ = quant(proto, feeds(1, 2, 2, 2, count=samples))
    assert ("QuantizeLinear" in all_ops(small)) == integers


@pytest.mark.parametrize(
    "line",
    [
        "c = Identity (b)  h = Conv (x, W, c)  r = Relu (h)  m = Mul (r, two)",
        "c = Identity (b)  V = Identity (W)  h = Conv (x, V, c)  r = Relu (h)  m = Mul (r, two)",
        "h = Conv (x, W, b)  i = Identity (h)  r = Relu (i)  m = Mul (r, two)",
        "t = Identity (two)  h = Conv (x, W, b)  r = Relu (h)  m = Mul (t, r)",
    ],
)
def test_stretches_reach_over_identity(line):
    """With the very same numbers as without it."""
    plain = "h = Conv (x, W, b)  r = Relu (h)  m = Mul (r, two)"
    found = []
    for lines in (plain, line):
        text = f"g (float[1,8,6,6] x) => (float[?,?,?,?] y) {{ {lines}  y = Conv (m, U) }}"
        numbers = weights(W=(32, 8, 3, 3), b=(32,), U=(32, 32, 2, 2))
        proto = build(text, two=np.float32(2), **numbers)
        small, report = quant(proto, feeds(1, 8, 6, 6))
        found.append((report.changes, run(small, feeds(1, 8, 6, 6)[0])[0]))
    (changes, one), (others, other) = found
    assert changes == others
    assert all("static" in entry.text for entry in changes)
    np.testing.assert_array_equal(one, other)


def test_dead_channels_keep_their_bias():
    """Weights next to nothing make the scale of the bias so small that int32 would not hold it."""
    numbers = dict(NUMBERS, w1=NUMBERS["w1"].copy())
    numbers["w1"][3] *= 1e-30
    proto, fit = build(RESIDUAL, **numbers), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    assert error(proto, small, fit) < 0.05


def test_an_excluded_convolution_is_not_quantized_behind_our_back():
    proto, fit = residual(), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, exclude=("w2",), activations="int8")
    kept = next(t for t in small.graph.initializer if t.name == "w2")
    assert kept.data_type == 1
    wide = dict(
        NUMBERS, w2=NUMBERS["w2"] * np.float32(10.0) ** np.resize(np.arange(-8, 8), (64, 1, 1, 1))
    )
    proto = build(RESIDUAL, **{k: v.astype("float32") for k, v in wide.items()})
    small, _ = quant(proto, fit, exclude=("w2",), activations="int8")
    fused, plain = run(small, fit[0])[0], run(small, fit[0], optimized=False)[0]
    assert np.abs(fused - plain).max() <= 0.03 * np.abs(plain).max()


def test_a_layer_that_makes_most_of_the_error_stays_float():
    numbers = dict(NUMBERS, w1=NUMBERS["w1"].copy())
    numbers["w1"][:, 0, 0, 0] = 300  # one weight of each row leaves no codes for the others
    proto = build(RESIDUAL, **numbers)
    fit = feeds(1, 8, 12, 12, count=16)
    for feed in fit:
        feed["x"][:, 0] = 0
    far = dataclasses.replace(ALWAYS, convolutions={"static": [[8, 9, 64, 1.01], [64, 1, 64, 4.0]]})
    small, report = quant(proto, fit, far)
    assert "of the error" in reasons(report)
    strict, _ = quant(proto, fit, far, activations="int8")
    assert error(proto, small, fit) < 0.5 * error(proto, strict, fit)


def test_a_factor_costs_nothing(tmp_path):
    proto = build(
        """g (float[1,32,12,12] x) => (float[?,?,?,?] y) {
            a = Conv(x, w1) t = Add(a, three) h = Clip(t, low, high) m = Mul(a, h)
            s = Div(m, high) y = Conv(s, w2) }""",
        **weights(w1=(64, 32, 1, 1), w2=(32, 64, 1, 1)),
        low=np.float32(0),
        high=np.float32(6),
        three=np.float32(3),
    )
    fit = feeds(1, 32, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    ran = executed(small, fit[0], tmp_path)
    assert ran["QLinearConv"] == 2
    assert not {"Div", "Mul", "Clip", "Add", "Conv"} & ran.keys()
    assert error(proto, small, fit) < 0.05


def test_equal_inputs_give_equal_bytes():
    first, second = (quant(residual(), feeds(1, 8, 12, 12))[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_second_run_changes_nothing():
    fit = feeds(1, 8, 12, 12)
    small, _ = quant(residual(), fit)
    again, report = quant(small, fit)
    assert not [e for e in report.changes if e.subject != "operator set"]
    assert len(again.graph.node) == len(small.graph.node)


def test_a_small_model_does_not_grow():
    proto = build(
        "g (float[1,4,8,8] x) => (float[?,?,?,?] y) { y = Conv(x, w) }", **weights(w=(6, 4, 1, 1))
    )
    small, report = quant(proto, feeds(1, 4, 8, 8), activations="int8")
    assert not report.modified
    assert small.ByteSize() <= proto.ByteSize()


# ------------------------------------------------------------------------------------ the cut


@settings(max_examples=60)
@given(st.data())
def test_no_other_parting_is_cheaper(data):
    count = data.draw(st.integers(1, 6))
    costs = st.integers(0, 20)
    one, other = ([data.draw(costs) for _ in range(count)] for _ in range(2))
    places = st.integers(0, count - 1)
    arcs = data.draw(st.lists(st.tuples(places, places, costs), max_size=10))
    arcs = [arc for arc in arcs if arc[0] != arc[1]]

    def price(side):
        own = sum(a if s else b for s, a, b in zip(side, one, other, strict=True))
        return own + sum(c for u, v, c in arcs if side[u] and not side[v])

    best = min(price([bool(n >> at & 1) for at in range(count)]) for n in range(1 << count))
    assert price(list(minimum_cut(one, other, arcs))) == pytest.approx(best)


def test_infinite_costs_are_never_paid():
    inf = float("inf")
    side = minimum_cut([0, 0, inf], [5, 0, 0], [(0, 1, inf), (1, 2, 3.0)])
    assert side.tolist() == [True, True, False]
    assert minimum_cut([0, 0], [5, 0], [(0, 1, inf), (1, 0, inf)]).all()


# --------------------------------------------------------------------------- channels of outputs


def test_what_small_channels_lose_is_not_hidden_by_large_ones():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((1, 3, 200)) * np.array([300, 1, 1])[:, None]
    y = r.copy()
    y[:, 1] = 0  # a score that is gone
    assert lost([[r]], [[y]]) == pytest.approx(1 / 3)
    assert lost([[r], [r]], [[r], [y]]) == pytest.approx(1 / 6, rel=0.01)
    assert lost([[r]], [[r]]) == 0
    y[:, 1] = 50  # nothing is lost more than once
    assert lost([[r]], [[y]]) == pytest.approx(1 / 3)


def test_channels_of_few_numbers_and_constant_ones_tell_nothing():
    r = np.ones((1, 3, 200))
    assert lost([[r]], [[2 * r]]) == 0
    assert lost([[draw(1, 3, 4)]], [[draw(1, 3, 4, seed=1)]]) == 0
    assert lost([[np.zeros((1, 3, 200), np.int64)]], [[np.ones((1, 3, 200), np.int64)]]) == 0


def test_an_activation_that_loses_the_scores_stays_float():
    """Boxes and scores joined: in bytes, one step of what they share is as large as a score."""
    proto = build(
        """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1) c = Mul(a, hundred)
            b = Conv<pads=[1,1,1,1]>(x, w2) s = Sigmoid(b)
            d = Concat<axis=1>(c, s) m = MaxPool<kernel_shape=[2,2]>(d) y = Relu(m) }""",
        **weights(w1=(64, 8, 3, 3), w2=(64, 8, 3, 3)),
        hundred=np.float32([300.0]),
    )
    fit = feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit)
    assert "QuantizeLinear" in all_ops(small)
    (before,), (after,) = run(proto, fit[0]), run(small, fit[0])
    before, after = before[:, 64:], after[:, 64:]
    assert np.linalg.norm(after - before) < 0.1 * np.linalg.norm(before - before.mean())


def test_means_are_corrected_only_where_outputs_come_nearer(monkeypatch):
    def spoil(model, original, uses, context):
        for use in uses:
            value = coded_bias(use.node)
            if value is not None:
                model.set_constant(value, model.constant(value) + np.int32(10**6))

    proto, fit = residual(), feeds(1, 8, 12, 12)
    good = error(proto, quant(proto, fit, activations="int8")[0], fit)
    monkeypatch.setattr(shift, "correct_means", spoil)
    assert error(proto, quant(proto, fit, activations="int8")[0], fit) < 2 * good


def test_what_takes_longer_to_start_than_it_saves_stays_float():
    _, report = quant(residual(), feeds(1, 8, 12, 12), dataclasses.replace(ALWAYS, start=1e9))
    assert "static" not in report.summary


def test_what_is_left_is_looked_into_again():
    """One unit hides another, which makes most of what is left without it."""
    loss = dict.fromkeys(range(16), 1e-4) | {3: 0.5, 9: 0.004}
    every = [SimpleNamespace(kind="weighted", number=at) for at in loss]
    sensitivity = SimpleNamespace(square=lambda some: sum(loss[each.number] for each in some))
    first = spared(sensitivity, every, [1.0] * 16)
    assert [unit.number for unit, _ in first] == [3]  # 0.0054 is little enough
    loss[9] = 0.04
    assert [unit.number for unit, _ in spared(sensitivity, every, [1.0] * 16)] == [3, 9]
    loss[9] = 0.009
    loss[12] = 0.009
    found = [unit.number for unit, _ in spared(sensitivity, every, [0.1] * 16)]
    assert found[0] == 3
    assert sorted(found[1:]) == [9, 12]  # each below 2 % of all: only the second look finds them


POOLED = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)
    z = %s(a)
    p = %s<kernel_shape=[3,3], pads=[1,1,1,1]>(z)
    y = Conv(p, w2)
}"""


@pytest.mark.parametrize(
    ("before", "pool", "bytes_"),
    [
        ("Relu", "MaxPool", True),
        ("Tanh", "MaxPool", False),
        ("Sigmoid", "MaxPool", False),  # the runtime has channels first there: 50 times slower
        ("Relu", "AveragePool", False),
    ],
)
def test_pools_are_of_bytes_where_the_runtime_is_fast(before, pool, bytes_):
    numbers = weights(w1=(64, 8, 3, 3), w2=(64, 64, 1, 1))
    proto, fit = build(POOLED % (before, pool), **numbers), feeds(1, 8, 12, 12)
    target = dataclasses.replace(targets.load("avx2"), convolutions={"static": [[1, 1, 1, 9.0]]})
    small, _ = quant(proto, fit, target)
    (node,) = [node for node in small.graph.node if node.op_type == pool]
    (maker,) = [other for other in small.graph.node if node.input[0] in other.output]
    assert (maker.op_type in ("QuantizeLinear", "DequantizeLinear")) == bytes_


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_old_operator_sets_are_raised_before_anything_is_tried(opset):
    """What stays float is looked for with QuantizeLinear, which old sets do not have."""
    text = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        c = %s
        y = Conv(c, w2)
    }"""
    cut = "Slice<starts=[0], ends=[6], axes=[2]>(b)" if opset < 10 else "Relu(b)"
    proto = build(text % cut, opset=opset, **weights(w1=(32, 8, 3, 3), w2=(16, 32, 3, 3)))
    fit = feeds(1, 8, 12, 12)
    small, report = quant(proto, fit)
    assert "static" in report.summary
    assert small.opset_import[0].version >= 13
    assert error(proto, small, fit) < 0.1


def test_pools_of_floats_stay_so_where_bytes_follow(tmp_path):
    """The runtime would move QuantizeLinear in front of them."""
    text = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        z = Softplus(a)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(z)
        y = Conv(p, w2)
    }"""
    numbers = weights(w1=(64, 8, 3, 3), w2=(64, 64, 1, 1))
    proto, fit = build(text, **numbers), feeds(1, 8, 12, 12)
    small, _ = quant(proto, fit, activations="int8")
    ran = kernels(small, fit[0], tmp_path)
    (pool,) = [each for each in ran if "MaxPool" in each["op_name"]]
    assert list(pool["input_type_shape"][0]) == ["float"]
    assert any(each["op_name"] == "QLinearConv" for each in ran)
    assert error(proto, small, fit) < 0.05


@pytest.mark.parametrize("rough", [True, False])
def test_what_stays_float_has_sixteen_bits_only_if_eight_are_too_few(rough, monkeypatch):
    """Rare peaks of what is given make bytes a bad choice; peaks of weights make codes one."""
    numbers = weights(w1=(32, 8, 3, 3), w2=(32, 32, 1, 1), w3=(32, 32, 3, 3))
    proto = build(
        """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(a)
            b = Conv(r, w2)                  s = Relu(b)
            y = Conv<pads=[1,1,1,1]>(s, w3)
        }""",
        **numbers,
    )
    fit = feeds(1, 8, 12, 12)
    middle = [node for node in from_proto(proto).graph.nodes if node.op == "Conv"][1].name
    monkeypatch.setattr(Sensitivity, "square", square_of(middle, 1.0 if rough else 0.0))
    _, report = quant(proto, fit)
    text = {entry.subject: entry.text for entry in report.changes}
    assert ("float16" in text["w2"]) == rough
    assert "codec" in text["w2"]
    assert "static" in text["w3"]


def square_of(bad: str, weight: float):
    """One unit makes all of the error, and its weight a share of that."""

    def square(_, units, activations=True):
        return (1.0 if activations else weight) * any(unit.node.name == bad for unit in units)

    return square
