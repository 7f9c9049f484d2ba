"""quant: what stays float among convolutions of integers, and how that is found."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from static_stretches import (
    ALWAYS,
    NUMBERS,
    RESIDUAL,
    error,
    feeds,
    quant,
    residual,
    weights,
)

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.weights.forms.static import coded_bias
from onnx_compress.passes.quant.static import shift
from onnx_compress.passes.quant.static.spare import Sensitivity, spared
from onnx_compress.passes.solvers.cut import minimum_cut

from models_by_text import all_ops, build, reasons, run


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
