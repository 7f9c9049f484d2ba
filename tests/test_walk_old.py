"""Walks over models of old file formats, in which every initializer is an input."""

import numpy as np
from onnx import helper, parser

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime.walk import Walk


def test_a_constant_that_only_a_body_reads_is_found():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]>'
        "g (float[N] x, bool p) => (float[N] y) <float low = {0}, float[1] w = {2}> {"
        " a = Mul (x, w)"
        " b = If (p) <then_branch = t () => (float[N] c) { c = Clip (a, low) },"
        " else_branch = e () => (float[N] d) { d = Neg (a) }>"
        " y = Mul (b, w) }"
    )
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("low", 1, []))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [1]))
    read = from_proto(model)
    feed = {"x": np.array([-1, 1], "f"), "p": np.array(True)}
    walk = Walk(read, [feed])
    (y,) = (value for value, _ in read.graph.outputs)
    walk.reach([y])
    assert walk.value(y, 0).tolist() == [0, 4]
