"""quant: scales of smoothed inputs taken over by what makes them."""

import numpy as np
import pytest
from test_quant_smooth import ALWAYS, draw, error

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes.quant import Quant

from models_by_text import build, run

BIG = np.where(np.isin(np.arange(64), (5, 40)), 60, 1).astype("f")  # outliers of a norm's scale
SMALL = {"W": draw(64, 48, seed=9) / BIG[:, None], "g": BIG, "b": draw(64, seed=3) * BIG}
READ = "y = MatMul(v, W)"
MADE = {
    "LayerNormalization": "v = LayerNormalization(x, g, b)",
    "without a bias": "v = LayerNormalization(x, g)",
    "spelled out": "n = LayerNormalization(x, one) m = Mul(g, n) v = Add(m, b)",
    "over Relu": "n = LayerNormalization(x, g, b) v = Relu(n)",
}


def smoothed(body, least_db=0.0, outputs="float[?,?] y", **more):
    stored = {**SMALL, "one": np.ones(64, "f"), **more}
    text = f"g (float[16,64] x) => ({outputs}) {{ {body} }}"
    proto = build(text, **{name: array for name, array in stored.items() if name in body})
    fit = [{"x": draw(16, 64, seed=at)} for at in range(8)]
    model = from_proto(proto)
    report = Quant(bits=8, least_db=least_db).run(model, Context(ALWAYS, fit[0], fit))
    invariants.check(model)
    return proto, to_proto(model), " ".join(report.notes), fit


@pytest.mark.parametrize("made", MADE)
def test_it_needs_no_node_where_nothing_else_reads_the_input(made):
    proto, small, notes, fit = smoothed(f"{MADE[made]} {READ}")
    assert "1 inputs of products smoothed into their weights, 1 of them by what makes" in notes
    (bytes_of,) = (node for node in small.graph.node if node.op_type == "DynamicQuantizeLinear")
    assert list(bytes_of.input) == ["v"]
    assert error(proto, small, fit) < 0.1  # 0.43 without; products may saturate here


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"v = LayerNormalization(x, g, b) {READ} r = Relu(v)", "float[?,?] y, float[?,?] r"),
        (f"v = LayerNormalization(x, g, b) {READ}", "float[?,?] y, float[?,?] v"),
        (
            f"n = LayerNormalization(x, g, b) v = Relu(n) {READ} r = Neg(n)",
            "float[?,?] y, float[?,?] r",
        ),
        (f"n = LayerNormalization(x, g, b) v = Sigmoid(n) {READ}", "float[?,?] y"),
        (f"n = LayerNormalization(x, g, b) v = Add(n, x) {READ}", "float[?,?] y"),
    ],
)
def test_elsewhere_a_node_is_inserted_or_nothing_done(body, outputs):
    proto, small, notes, fit = smoothed(body, outputs=outputs)
    assert "by what makes" not in notes
    for at in range(1, len(proto.graph.output)):
        assert np.array_equal(run(proto, fit[0])[at], run(small, fit[0])[at])


def test_a_vector_that_others_read_stays_theirs():
    body = f"v = LayerNormalization(x, g, b) {READ} r = Mul(x, g)"
    proto, small, notes, fit = smoothed(body, outputs="float[?,?] y, float[?,?] r")
    assert "by what makes" in notes
    assert np.array_equal(run(proto, fit[0])[1], run(small, fit[0])[1])


def test_all_is_as_it_was_where_the_product_stays_float():
    proto, small, notes, fit = smoothed(f"{MADE['LayerNormalization']} {READ}", least_db=90.0)
    assert "smoothed" not in notes
    (scale,) = (t for t in small.graph.initializer if t.name == "g")
    assert scale == next(t for t in proto.graph.initializer if t.name == "g")
    assert error(proto, small, fit) < 0.05  # of a weight with such columns
