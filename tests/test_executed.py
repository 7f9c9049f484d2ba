"""What the runtime really runs, and that no weight is decoded at every run because of us."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import Session, executed
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import affine, spell_out
from onnx_compress.kernels.affine import quantize, symmetric_scale
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

FEED = {"x": np.random.default_rng(1).standard_normal((1, 512)).astype(np.float32)}


def model(then: str) -> ModelProto:
    """A Gemm, followed by something that the runtime may fuse with it (not if it is an output)."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,512] x) => (float[1,512] y) '
        f"{{ h = Gemm <transB = 1> (x, W, b)  a = {then}  y = Neg (a) }}"
    )
    proto = parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("W", (512, 512)), ("b", (512,))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("target", ["avx512-vnni", "avx2", "arm64"])
@pytest.mark.parametrize("then", ["Relu (h)", "LeakyRelu (h)", "Tanh (h)", "Abs (h)"])
def test_no_weight_is_decoded_at_every_run(then, target):
    small = from_proto(model(then))
    context = Context(targets.load(target), FEED)
    assert Quant(bits=8, activations="float").run(small, context).modified
    assert "DequantizeLinear" not in {op for op, _ in executed(small, FEED)}


def test_fused_nodes_are_not_among_those_run():
    ran = {op for op, _ in executed(from_proto(model("Relu (h)")), FEED)}
    assert "Relu" not in ran


def test_spelling_out_changes_no_bit():
    small = from_proto(model("Relu (h)"))
    (weight,) = find_weights(small)
    array = weight.array()
    scale = symmetric_scale(array, weight.channel_axes, 8)
    readers = dict.fromkeys(weight.uses, "dequantize")
    affine(weight, quantize(array, scale, 8), scale, readers).emit(weight)
    before = Session(small, optimize=False).run(FEED)
    names = {node.name for node in small.nodes() if node.op == "DequantizeLinear"}
    assert spell_out(small, names) == 1
    assert not any(node.op == "DequantizeLinear" for node in small.nodes())
    np.testing.assert_array_equal(Session(small, optimize=False).run(FEED)[0], before[0])
