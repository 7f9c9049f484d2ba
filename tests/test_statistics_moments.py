"""Moments: what a weight is multiplied by, held to what its operator gives out.

y = W x      E[y] = W E[x],  E[y_r^2] = w_r H w_rT
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.statistics import Look, Mean, Moment, Moments, collect

from graphs import only, parsed

ALL = Look(windows=None)
SEEDS = st.integers(0, 1000)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def moments(text, feeds, **weights):
    """Of the one weight of a model, and its matrix."""
    model = from_proto(parsed(text, **weights))
    weight = only(model)
    (use,) = weight.uses
    return collect(model, [Moment(use)], feeds, look=ALL)[Moment(use)], use.matrix(weight.array())


def predicted(found: Moments, matrix):
    """E[y] and E[y^2], [groups, rows]."""
    mean = np.einsum("grk,gk->gr", matrix, found.mean)
    squares = [
        np.einsum("rk,kl,rl->r", w, found.matrix(group), w) for group, w in enumerate(matrix)
    ]
    return mean, np.stack(squares)


def run(text, feeds, **weights):
    from onnx_compress.ir.runtime import Session

    session = Session(from_proto(parsed(text, **weights)))
    return [session.run(feed)[0] for feed in feeds]


def check(text, feeds, channel, groups=1, **weights):
    """Outputs of the model must have the mean and the energy that the moments say."""
    found, matrix = moments(text, feeds, **weights)
    outputs = [
        np.moveaxis(y, channel, -1).reshape(-1, y.shape[channel])
        for y in run(text, feeds, **weights)
    ]
    y = np.concatenate(outputs).astype(np.float64)
    mean, square = predicted(found, matrix)
    assert found.rows == len(y)
    assert np.allclose(mean.reshape(-1), y.mean(0), atol=1e-4)
    assert np.allclose(square.reshape(-1), (y**2).mean(0), rtol=1e-4, atol=1e-5)


@st.composite
def convolutions(draw, transposed=False):
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode.startswith("SAME"):
        dilations = [1] * rank
    pads = [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True)]
    pads += [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True)]
    text = f"group = {groups}, strides = {strides}, dilations = {dilations}"
    text += f", pads = {pads}" if mode == "NOTSET" else f', auto_pad = "{mode}"'
    if transposed and mode == "NOTSET":
        extra = [draw(st.integers(0, s - 1)) for s in strides]
        text += f", output_padding = {extra}"
    space = [draw(st.integers(7, 9)) for _ in range(rank)]
    batches = draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))
    feeds = [{"x": normal(n, inputs, *space, seed=n)} for n in batches]
    first, second = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    dims = ", ".join(["n"] + [str(inputs)] + [f"d{i}" for i in range(rank)])
    op = "ConvTranspose" if transposed else "Conv"
    model = f"(float[{dims}] x) => (float y) {{ y = {op}<{text}>(x, w) }}"
    return model, feeds, normal(first, second, *kernel, seed=5)


@settings(max_examples=80)
@given(convolutions())
def test_windows_of_convolutions(drawn):
    text, feeds, w = drawn
    check(text, feeds, 1, w=w)


@settings(max_examples=80)
@given(convolutions(transposed=True))
def test_windows_of_transposed_convolutions(drawn):
    text, feeds, w = drawn
    check(text, feeds, 1, w=w)


PRODUCTS = {
    "right": ("(float[b,n,6] x) => (float y) { y = MatMul(x, w) }", (2, 5, 6), (6, 4), -1),
    "vector": ("(float[6] x) => (float y) { y = MatMul(x, w) }", (6,), (6, 4), -1),
    "left": ("(float[b,6,n] x) => (float y) { y = MatMul(w, x) }", (2, 6, 5), (4, 6), -2),
    "transposed": ("(float[n,6] x) => (float y) { y = Gemm<transB = 1>(x, w) }", (5, 6), (4, 6), 1),
    "gemm": ("(float[6,n] x) => (float y) { y = Gemm<transA = 1>(x, w) }", (6, 5), (6, 4), 1),
    "first": ("(float[6,n] x) => (float y) { y = Gemm(w, x) }", (6, 5), (4, 6), 0),
    "both": (
        "(float[n,6] x) => (float y) { y = Gemm<transA = 1, transB = 1>(w, x) }",
        (5, 6),
        (6, 4),
        0,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    text, x, w, channel = PRODUCTS[name]
    check(text, [{"x": normal(*x, seed=i)} for i in range(3)], channel, w=normal(*w))


@pytest.mark.parametrize("shape", [(3, 6, 4), (1, 3, 6, 4), (2, 1, 6, 4)])
def test_batched_constants_have_a_moment_for_each(shape):
    text = "(float[2,3,n,6] x) => (float y) { y = MatMul(x, w) }"
    x, w = normal(2, 3, 5, 6), normal(*shape)
    found, matrix = moments(text, [{"x": x}], w=w)
    mean, square = predicted(found, matrix)
    y = x @ w
    for at in range(len(matrix)):
        own = np.moveaxis(y, {3: 1, 2: 0}.get(found.groups), 0)[at] if found.groups > 1 else y
        assert np.allclose(square[at], (own.reshape(-1, 4) ** 2).mean(0), rtol=1e-4)
        assert np.allclose(mean[at], own.reshape(-1, 4).mean(0), atol=1e-5)


RECURRENT = """(float[t,b,3] x, int32[b] n) => (float y)
    {{ y = {op}<hidden_size = 4, direction = "{direction}"{more}>(x, w, r, , n) }}"""
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_inputs_and_states_of_recurrent_layers(op, direction):
    """A step of the layer itself, on the inputs and states that were seen, gives its outputs."""
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    weights = {"w": normal(count, gates * 4, 3, seed=1), "r": normal(count, gates * 4, 4, seed=2)}
    text = RECURRENT.format(op=op, direction=direction, more="")
    model = from_proto(parsed(text, **weights))
    feed = {"x": normal(5, 3, 3), "n": np.array([5, 2, 4], np.int32)}
    first, second = (weight.uses[0] for weight in find_weights(model))
    found = collect(model, [Moment(first), Moment(second)], [feed], look=ALL)
    (y,) = run(text, [feed], **weights)
    steps = [(t, b) for b in range(3) for t in range(feed["n"][b])]
    inputs = np.stack([feed["x"][t, b] for t, b in steps])
    for at in range(count):
        back = direction == "reverse" or at == 1
        states = []
        for t, b in steps:
            before = t + 1 if back else t - 1
            inside = 0 <= before < feed["n"][b]
            states.append(y[before, at, b] if inside else np.zeros(4))
        for use, rows in ((first, inputs), (second, np.stack(states))):
            one = found[Moment(use)]
            assert one.rows == len(steps)
            assert np.allclose(one.matrix(at), rows.T @ rows / len(rows), atol=1e-5)
            assert np.allclose(one.mean[at], rows.mean(0), atol=1e-5)


def test_states_begin_where_they_are_told_to():
    text = """(float[1,b,3] x, float[1,b,4] h) => (float y)
        { y = LSTM<hidden_size = 4>(x, w, r, , , h) }"""
    weights = {"w": normal(1, 16, 3), "r": normal(1, 16, 4)}
    model = from_proto(parsed(text, **weights))
    use = list(find_weights(model))[1].uses[0]
    h = normal(1, 6, 4)
    found = collect(model, [Mean(use)], [{"x": normal(1, 6, 3), "h": h}])[Mean(use)]
    assert np.allclose(found[0], h[0].mean(0), atol=1e-6)
