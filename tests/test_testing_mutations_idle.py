"""Mutations that have nothing to do say so, and take no name twice."""

import pytest

from onnx_compress.bench.drawn import wrong
from onnx_compress.testing import (
    MUTATIONS,
)

from models_by_text import (
    build,
    draw,
    same_numbers_in_any_order,  # noqa: F401
)
from mutated_models import (
    everything,
    mutated,
)

IDLE = [
    "as_constant_nodes",
    "as_inputs",
    "behind_identity",
    "behind_transpose",
    "behind_cast",
    "shared",
    "tied",
    "gemm_split",
    "transposed_product",
    "captured_by_branch",
    "reorder_nodes",
]


@pytest.mark.parametrize("name", IDLE)
def test_it_says_none_where_there_is_nothing_to_write_differently(name):
    model = build("g (float[N,4] x) => (float[N,4] y) { h = Relu (x)  y = Neg (h) }")
    assert mutated(name, model) is None


def test_a_newest_operator_set_is_not_raised():
    model = build("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=21)
    assert mutated("other_opset", model) is None


def test_a_model_with_functions_gets_no_more():
    model = mutated("outlined_into_function", everything())
    assert mutated("outlined_into_function", model) is None


def test_without_floats_to_give_out_nothing_is_added_to_them():
    text = "h = Add (x, b)  y = ArgMax <axis=1, keepdims=0>(h)"
    model = build(f"g (float[N,4] x) => (int64[N] y) {{ {text} }}", b=draw(4))
    assert mutated("tied", model) is None
    assert mutated("custom_domain_node", model) is None


def test_a_gemm_that_scales_is_not_split():
    text = "g (float[N,4] x) => (float[N,3] y) { y = Gemm <alpha=2.0>(x, W) }"
    assert mutated("gemm_split", build(text, W=draw(4, 3))) is None


def test_weights_of_bodies_cannot_be_inputs():
    model = build(
        "g (float[N,4] x, bool c) => (float[N,4] y) { y = If (c) <"
        "then_branch = t () => (float[N,4] a) <float[4] s = {1,2,3,4}> { a = Mul (x, s) },"
        "else_branch = e () => (float[N,4] b) { b = Mul (x, w) }> }",
        w=draw(4),
    )
    assert mutated("as_inputs", model) is None
    assert wrong(mutated("as_constant_nodes", model)) == ""


def test_an_only_order_is_no_other_order_and_two_are_always_found():
    line = build("g (float[2] x) => (float[2] z) { y = Relu (x)  z = Neg (y) }")
    fork = build("g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Neg (x) }")
    for seed in range(8):
        assert mutated("reorder_nodes", line, seed) is None
        found = mutated("reorder_nodes", fork, seed)
        assert [node.op_type for node in found.graph.node] == ["Neg", "Relu"]


def test_equal_nodes_are_kept_apart():
    model = build("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Relu (x)  y = Add (a, b) }")
    for seed in range(4):
        found = mutated("reorder_nodes", model, seed)
        assert wrong(found) == ""
        assert sorted(n.output[0] for n in found.graph.node) == ["a", "b", "y"]


def test_names_that_are_taken_are_not_given_again():
    text = "g (float[2] x) => (float[2] dead) { t0 = Relu (x)  dead = Add (t0, zero) }"
    model = build(text, zero=draw(2))
    for name in MUTATIONS:
        found = mutated(name, model)
        assert found is None or wrong(found) == "", name
