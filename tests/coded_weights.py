"""Weights in coded forms, for the tests of forms and readers: models, codes, comparisons."""

import numpy as np

from onnx_compress.ir.graph import clone, from_proto, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import READERS, Affine, Dense, affine
from onnx_compress.kernels.affine import quantize, symmetric_scale

from graphs import RNG, array, run, view

BODIES = {
    "Conv": (
        "(float[1,6,5,5] x) => (float y) { y = Conv(x, w, b) }",
        {"w": (8, 6, 3, 3), "b": (8,)},
    ),
    "Conv in groups": (
        "(float[1,6,5,5] x) => (float y) { y = Conv<group = 3>(x, w) }",
        {"w": (9, 2, 3, 3)},
    ),
    "Conv of one dimension": ("(float[1,6,5] x) => (float y) { y = Conv(x, w) }", {"w": (8, 6, 3)}),
    "ConvTranspose": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose(x, w) }",
        {"w": (6, 4, 2, 2)},
    ),
    "ConvTranspose in groups": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose<group = 2>(x, w) }",
        {"w": (6, 4, 2, 2)},
    ),
    "ConvTranspose in groups, wide": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose<group = 2>(x, w) }",
        {"w": (6, 4, 4, 4)},
    ),
    "Gemm": ("(float[3,6] x) => (float y) { y = Gemm(x, w, b) }", {"w": (6, 8), "b": (8,)}),
    "Gemm on the left": ("(float[6,3] x) => (float y) { y = Gemm(w, x) }", {"w": (4, 6)}),
    "MatMul": ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}),
    "MatMul of a vector": ("(float[6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}),
    "MatMul in batches": ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (2, 6, 8)}),
    "MatMul on the left": ("(float[2,6,3] x) => (float y) { y = MatMul(w, x) }", {"w": (5, 6)}),
    "MatMul of one column": ("(float[3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 1)}),
    "MatMul twice": (
        "(float[3,6] x) => (float y) { a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }",
        {"w": (6, 8), "v": (6, 8)},
    ),
    "MatMul over steps": (
        """(float[3,6] x) => (float y) { s = Constant<value_ints = [8, 6]>()
        r = Reshape(w, s)  i = Identity(r)  t = Transpose(i)  y = MatMul(x, t) }""",
        {"w": (8, 2, 3)},
    ),
    "MatMul over a Cast": (
        "(float[3,6] x) => (float y) { i = Cast<to = 1>(w)  y = MatMul(x, i) }",
        {"w": (6, 8)},
    ),
    "Gather": ("(int64[2,2] i) => (float y) { y = Gather(w, i) }", {"w": (9, 5)}),
    "Gather of one": ("(int64 i) => (float y) { y = Gather(w, i) }", {"w": (9, 5)}),
    "Gather along 1": ("(int64[2,2] i) => (float y) { y = Gather<axis = 1>(w, i) }", {"w": (5, 9)}),
    "Gather along -1": ("(int64[3] i) => (float y) { y = Gather<axis = -1>(w, i) }", {"w": (5, 9)}),
    "Gather of rank 3": (
        "(int64[2,2] i) => (float y) { y = Gather<axis = 1>(w, i) }",
        {"w": (3, 9, 4)},
    ),
    "Gather over steps": (
        "(int64[2] i) => (float y) { t = Transpose(w)  y = Gather(t, i) }",
        {"w": (5, 9)},
    ),
    "Gather and MatMul": (
        """(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        {"w": (9, 6)},
    ),
    "Gather, MatMul and Abs": (
        "(int64[2] i) => (float y, float z) { e = Gather(w, i)  y = MatMul(e, w)  z = Abs(w) }",
        {"w": (6, 6)},
    ),
    "LSTM": (
        "(float[4,1,3] x) => (float y) { y = LSTM<hidden_size = 2>(x, w, r, b) }",
        {"w": (1, 8, 3), "r": (1, 8, 2), "b": (1, 16)},
    ),
    "GRU of two directions": (
        "(float[4,1,3] x) => (float y) "
        '{ y = GRU<hidden_size = 2, direction = "bidirectional">(x, w, r) }',
        {"w": (2, 6, 3), "r": (2, 6, 2)},
    ),
    "one weight in both branches": (
        """(bool c, float[3,6] x) => (float y) { y = If (c) <
        then_branch = t () => (float a) { a = MatMul(x, w) },
        else_branch = e () => (float a) { n = Neg(x)  a = Gemm(n, w) }> }""",
        {"w": (6, 8)},
    ),
    "a table in a branch": (
        """(bool c, int64[2] i) => (float y) { y = If (c) <
        then_branch = t () => (float a) { a = Gather(w, i) },
        else_branch = e () => (float a) { g = Gather(w, i)  a = Neg(g) }> }""",
        {"w": (9, 5)},
    ),
    "kept in branches": (
        """(bool c, float[3,2] x) => (float y) { y = If (c) <
        then_branch = t () => (float a) <float[2,3] k = {1,2,3,4,5,-6}> { a = MatMul(x, k) },
        else_branch = e () => (float a) {
            l = Constant<value = float[2,3] {1,-2,3,4,5,6}>()  a = MatMul(x, l) }> }""",
        {},
    ),
    "kept in a loop": (
        """(int64 n, float[3,2] x) => (float y) { y = Loop(n, , x) <
        body = l (int64 j, bool go, float[3,2] s) => (bool on, float[3,2] o)
        <float[2,2] k = {0.5, 0.25, -0.5, 1}> { on = Identity(go)  o = MatMul(s, k) }> }""",
        {},
    ),
    "a Constant node": (
        """(float[3,2] x) => (float y) {
        k = Constant<value = float[2,3] {1,2,3,4,5,-6}>()  y = MatMul(x, k) }""",
        {},
    ),
    "floats of a Constant node": (
        """(float[3,2] x) => (float y) { k = Constant<value_floats = [1.0,2.0,3.0,4.0,5.0,-6.0]>()
        s = Constant<value_ints = [2,3]>()  r = Reshape(k, s)  y = MatMul(x, r) }""",
        {},
    ),
}

# what a reader of quantized inputs wants
QUANTIZED = """(float[1,6,n] x) => (float y) <float s = {0.05}, uint8 z = {128}> {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Conv(d, w)
}"""


def sample(name: str):
    """The model of that name and feeds for it."""
    body, shapes = BODIES[name]
    model = view(body, **{key: array(*shape) for key, shape in shapes.items()})
    feed = {}
    for value, info in model.graph.inputs:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if value.name == "i":
            feed["i"] = RNG.integers(0, 5, shape)
        elif value.name == "n":
            feed["n"] = np.int64(3)
        elif value.name != "c":
            feed[value.name] = array(*shape)
    both = "c" in [value.name for value in model.inputs()]
    return model, [{**feed, "c": np.array(c)} for c in (True, False)] if both else [feed]


# ---------------------------------------------------------------------- weights in other forms

BITS = 7  # 8-bit products of some processors saturate with more


def coded(weight, reader: str | dict | None = None, axes=None) -> Affine:
    """int8 codes of a weight, all uses read by `reader`, or by operator type as a dict says."""
    values = weight.array()
    scale = symmetric_scale(values, weight.channel_axes if axes is None else axes, BITS)
    codes = quantize(values, scale, BITS)
    by_op = reader if isinstance(reader, dict) else {}
    readers = {use: by_op.get(use.node.op, "codec") for use in weight.uses}
    if isinstance(reader, str):
        readers = dict.fromkeys(weight.uses, reader)
    return affine(weight, codes, scale, readers)


def allowed(form, weight) -> bool:
    readers = ((use, READERS[form.readers.get(use, "codec")]) for use in weight.uses)
    return all(reader.allows(use, form) is None for use, reader in readers)


def emitted(model, make):
    """The model with every weight in the form that `make` gives, and with the decoded numbers."""
    small, dense = clone(model), clone(model)
    forms = {}
    for weight in find_weights(small):
        forms[weight.name] = make(weight)
        forms[weight.name].emit(weight)
    for weight in find_weights(dense):
        Dense(forms[weight.name].decode()).emit(weight)
    return small, dense, forms


def same_bits(model, feed, make, optimize: bool = True, tolerance: float = 0.0):
    small, dense, forms = emitted(model, make)
    again = from_proto(to_proto(small))
    assert again.interface() == model.interface()
    for got, want in zip(run(again, optimize, **feed), run(dense, optimize, **feed), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return small, forms


def close(model, feed, make, tolerance: float = 0.03):
    small, dense, forms = emitted(model, make)
    again = from_proto(to_proto(small))
    for got, want in zip(run(again, **feed), run(dense, **feed), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    return small, forms
