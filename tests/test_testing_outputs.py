"""The yardstick: how far outputs may be apart after weights have changed by so much."""

from functools import partial

import numpy as np
from onnx import parser

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import open_session
from onnx_compress.testing.outputs import Yardstick, compare, perturbed

from graphs import parsed

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype("f")


def test_what_is_nearly_even_may_go_either_way_and_nothing_else():
    row = RNG.standard_normal((1, 8)).astype("f")
    feed = {"x": row}
    for gap, said in ((0.05, ""), (3.0, "integers differ")):
        tied = np.tile(row.T, (1, 2)).astype("f") / 8
        tied[:, 1] += gap * row[0] / (row**2).sum()
        model = from_proto(
            parsed(
                "(float[N,8] x) => (int64[N,1] y) { a = MatMul(x, w) y = ArgMax<axis=1>(a) }",
                w=tied,
            )
        )
        (one,) = open_session(model).run(feed)
        yardstick = Yardstick(model, 0.02)
        assert compare(one, 1 - one, partial(yardstick, feed, 0)) == said


def test_errors_are_as_large_as_changes_of_that_size_make_them():
    model = from_proto(parsed("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", w=W))
    feed = {"x": RNG.standard_normal((4, 8)).astype("f")}
    (one,) = open_session(model).run(feed)
    shaken = partial(Yardstick(model, 0.01), feed, 0)
    assert compare(one, one * np.float32(1.01), shaken) == ""
    assert "the error is" in compare(one, one * np.float32(1.5), shaken)


def test_few_changed_models_are_run_where_few_are_enough():
    model = from_proto(parsed("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", w=W))
    feed, run = {"x": RNG.standard_normal((4, 8)).astype("f")}, []
    (one,) = open_session(model).run(feed)

    def shaken():
        for found in Yardstick(model, 0.01)(feed, 0):
            run.append(found)
            yield found

    assert compare(one, one * np.float32(1.01), shaken) == ""
    assert len(run) == 1


def test_sizes_that_a_function_resizes_by_are_not_changed():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'
        "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { y = f.up(x, s) }"
        '<domain: "f", opset_import: ["" : 17]> up (a, b) => (c) { c = Resize(a, , b) }'
    )
    for seed in range(4):
        changed = perturbed(from_proto(model), 0.5, seed)
        (found,) = (changed.constant(v) for v in changed.graph.initializers)
        assert found.tolist() == [1, 1, 2, 2]
