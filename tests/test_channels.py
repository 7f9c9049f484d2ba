"""Channels: what is removed equals what is masked, over the shapes that graphs have."""

import numpy as np
import pytest
from hypothesis import given
from onnx import ModelProto

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import Channels, find_channels, masked, without
from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import from_proto
from onnx_compress.testing import examples, models
from onnx_compress.testing.channels import exactness
from onnx_compress.testing.feeds import feed_of

from graphs import parsed, run

PIC = "(float[2,3,8,8] x) => (float[?,?,?,?] y)"
SEQ = "(float[2,5,16] x) => (float[?,?,?] y)"
FLAT = "(float[2,16] x) => (float[?,?] y)"

# name: graph, shapes of the weights, sizes of the groups found
SHAPES: dict[str, tuple[str, dict[str, tuple[int, ...]], list[int]]] = {
    "two convolutions": (
        PIC + "{ h = Conv(x, W, b) a = Relu(h) y = Conv(a, V) }",
        {"W": (8, 3, 3, 3), "b": (8,), "V": (4, 8, 1, 1)},
        [8],
    ),
    "depthwise": (
        PIC + "{ h = Conv(x, W) d = Conv<group=8, pads=[1,1,1,1]>(h, D, b) y = Conv(d, V) }",
        {"W": (8, 3, 1, 1), "D": (8, 1, 3, 3), "b": (8,), "V": (4, 8, 1, 1)},
        [8],
    ),
    "depthwise with multiplier": (
        PIC + "{ h = Conv(x, W) d = Conv<group=4>(h, D) y = Conv(d, V) }",
        {"W": (4, 3, 1, 1), "D": (8, 1, 3, 3), "V": (4, 8, 1, 1)},
        [2, 4],
    ),
    "groups": (
        PIC + "{ h = Conv(x, W) d = Conv<group=2>(h, D) y = Conv(d, V) }",
        {"W": (8, 3, 1, 1), "D": (12, 4, 3, 3), "V": (4, 12, 1, 1)},
        [2, 4, 6],
    ),
    "transposed convolution": (
        PIC + "{ h = ConvTranspose<strides=[2,2]>(x, W, b) a = Relu(h) y = Conv(a, V) }",
        {"W": (3, 8, 2, 2), "b": (8,), "V": (4, 8, 1, 1)},
        [8],
    ),
    "transposed convolution in groups": (
        PIC + "{ h = Conv(x, W) t = ConvTranspose<group=2>(h, T) y = Conv(t, V) }",
        {"W": (8, 3, 1, 1), "T": (8, 3, 2, 2), "V": (4, 6, 1, 1)},
        [2, 3, 4],
    ),
    "batch normalization and prelu": (
        PIC + "{ h = Conv(x, W) n = BatchNormalization(h, s, b, m, v) p = PRelu(n, k) "
        "y = Conv(p, V) }",
        {"W": (8, 3, 1, 1), "s": (8,), "b": (8,), "m": (8,), "v": (8,), "k": (8, 1, 1)}
        | {"V": (4, 8, 1, 1)},
        [8],
    ),
    "instance normalization": (
        PIC + "{ h = Conv(x, W) n = InstanceNormalization(h, s, b) y = Conv(n, V) }",
        {"W": (8, 3, 1, 1), "s": (8,), "b": (8,), "V": (4, 8, 1, 1)},
        [8],
    ),
    "group normalization, spelled out": (
        PIC + "{ h = Conv(x, W) z = Shape(h) r = Reshape(h, T) n = InstanceNormalization(r, s, b) "
        "o = Reshape(n, z) q = Mul(o, g) y = Conv(q, V) }",
        {"W": (8, 3, 1, 1), "s": (4,), "b": (4,), "g": (8, 1, 1), "V": (4, 8, 1, 1)},
        [4],
    ),
    "residual": (
        PIC + "{ h = Conv(x, W) c = Conv(h, U) r = Relu(c) d = Conv(r, Q) s = Add(h, d) "
        "y = Conv(s, V) }",
        {"W": (8, 3, 1, 1), "U": (6, 8, 1, 1), "Q": (8, 6, 1, 1), "V": (4, 8, 1, 1)},
        [6, 8],
    ),
    "gate": (
        PIC + "{ h = Conv(x, W) c = Conv(x, U) k = Sigmoid(c) s = Mul(h, k) y = Conv(s, V) }",
        {"W": (8, 3, 1, 1), "U": (8, 3, 1, 1), "V": (4, 8, 1, 1)},
        [8],
    ),
    "squeeze and excite": (
        PIC + "{ h = Conv(x, W) m = GlobalAveragePool(h) a = Conv(m, A) r = Relu(a) "
        "c = Conv(r, C) k = HardSigmoid(c) s = Mul(h, k) y = Conv(s, V) }",
        {"W": (8, 3, 1, 1), "A": (4, 8, 1, 1), "C": (8, 4, 1, 1), "V": (4, 8, 1, 1)},
        [4, 8],
    ),
    "concatenation": (
        PIC + "{ a = Conv(x, W) b = Conv(x, U) c = Concat<axis=1>(a, b) y = Conv(c, V) }",
        {"W": (8, 3, 1, 1), "U": (6, 3, 1, 1), "V": (4, 14, 1, 1)},
        [6, 8],
    ),
    "concatenation with itself": (
        PIC + "{ a = Conv(x, W) c = Concat<axis=1>(a, a) y = Conv(c, V) }",
        {"W": (8, 3, 1, 1), "V": (4, 16, 1, 1)},
        [8],
    ),
    "concatenation of a sum": (
        PIC + "{ a = Conv(x, W) b = Conv(x, U) c = Concat<axis=1>(a, b) d = Conv(x, Q) "
        "s = Add(c, d) y = Conv(s, V) }",
        {"W": (8, 3, 1, 1), "U": (6, 3, 1, 1), "Q": (14, 3, 1, 1), "V": (4, 14, 1, 1)},
        [6, 8],
    ),
    "split": (
        PIC + "{ h = Conv(x, W) a, b = Split<axis=1>(h, Z) c = Conv(a, A) d = Conv(b, B) "
        "y = Add(c, d) }",
        {"W": (10, 3, 1, 1), "A": (4, 6, 1, 1), "B": (4, 4, 1, 1)},
        [4, 6],
    ),
    "halves multiplied": (
        PIC + "{ h = Conv(x, W) a, b = Split<axis=1>(h, H) k = Sigmoid(b) c = Mul(a, k) "
        "y = Conv(c, V) }",
        {"W": (12, 3, 1, 1), "V": (4, 6, 1, 1)},
        [6],
    ),
    "slice": (
        PIC + "{ h = Conv(x, W) a = Slice(h, L, M, O) y = Conv(a, V) }",
        {"W": (10, 3, 1, 1), "V": (4, 5, 1, 1)},
        [5, 5],
    ),
    "picked": (
        PIC + "{ h = Conv(x, W) a = Gather<axis=1>(h, P) y = Conv(a, V) }",
        {"W": (6, 3, 1, 1), "V": (4, 6, 1, 1)},
        [4],
    ),
    "flattened": (
        "(float[2,3,4,4] x) => (float[?,?] y) { h = Conv(x, W) f = Flatten<axis=1>(h) "
        "y = Gemm<transB=1>(f, V, b) }",
        {"W": (8, 3, 1, 1), "V": (5, 128), "b": (5,)},
        [8],
    ),
    "reshaped with minus one": (
        "(float[2,3,4,4] x) => (float[?,?] y) { h = Conv(x, W) f = Reshape(h, R) "
        "y = MatMul(f, V) }",
        {"W": (8, 3, 1, 1), "V": (128, 5)},
        [8],
    ),
    "pooled, padded, resized": (
        PIC + "{ h = Conv(x, W) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) "
        "q = Pad(p, E) r = Resize<mode='nearest'>(q, , S) y = Conv(r, V) }",
        {"W": (8, 3, 1, 1), "V": (4, 8, 1, 1)},
        [8],
    ),
    "padded channels": (
        PIC + "{ h = Conv(x, W) q = Pad(h, F) k = Conv(x, U) s = Add(q, k) y = Conv(s, V) }",
        {"W": (6, 3, 1, 1), "U": (10, 3, 1, 1), "V": (4, 10, 1, 1)},
        [4, 6],
    ),
    "mean over space": (
        "(float[2,3,8,8] x) => (float[?,?] y) { h = Conv(x, W) "
        "m = ReduceMean<axes=[2,3], keepdims=0>(h) y = MatMul(m, V) }",
        {"W": (8, 3, 1, 1), "V": (8, 5)},
        [8],
    ),
    "pixel shuffle": (
        PIC + "{ h = Conv(x, W) d = DepthToSpace<blocksize=2, mode='CRD'>(h) y = Conv(d, V) }",
        {"W": (16, 3, 1, 1), "V": (4, 4, 1, 1)},
        [4],
    ),
    "depth to space": (
        PIC + "{ h = Conv(x, W) d = DepthToSpace<blocksize=2>(h) y = Conv(d, V) }",
        {"W": (16, 3, 1, 1), "V": (4, 4, 1, 1)},
        [4],
    ),
    "pixel shuffle, spelled out": (
        PIC + "{ h = Conv(x, W) a = Reshape(h, J) t = Transpose<perm=[0,1,4,2,5,3]>(a) "
        "d = Reshape(t, K) y = Conv(d, V) }",
        {"W": (16, 3, 1, 1), "V": (4, 4, 1, 1)},
        [4],
    ),
    "space to depth": (
        PIC + "{ h = Conv(x, W) d = SpaceToDepth<blocksize=2>(h) y = Conv(d, V) }",
        {"W": (6, 3, 1, 1), "V": (4, 24, 1, 1)},
        [6],
    ),
    "channels shuffled": (
        PIC + "{ h = Conv(x, W) a = Reshape(h, G) t = Transpose<perm=[0,2,1,3,4]>(a) "
        "d = Reshape(t, N) y = Conv(d, V) }",
        {"W": (12, 3, 1, 1), "V": (4, 12, 1, 1)},
        [3, 4],
    ),
    "channels last": (
        "(float[2,8,8,3] x) => (float[?,?,?,?] y) { t = Transpose<perm=[0,3,1,2]>(x) "
        "h = Conv(t, W) u = Transpose<perm=[0,2,3,1]>(h) a = Add(u, b) r = Relu(a) "
        "v = Transpose<perm=[0,3,1,2]>(r) y = Conv(v, V) }",
        {"W": (8, 3, 1, 1), "b": (8,), "V": (4, 8, 1, 1)},
        [8],
    ),
    "feed forward": (
        SEQ + "{ h = MatMul(x, W) a = Add(h, b) g = Erf(a) z = MatMul(g, V) y = Add(x, z) }",
        {"W": (16, 24), "b": (24,), "V": (24, 16)},
        [24],
    ),
    "gated feed forward": (
        SEQ + "{ h = MatMul(x, W) k = MatMul(x, U) s = Sigmoid(k) g = Mul(h, s) z = MatMul(g, V) "
        "y = Add(x, z) }",
        {"W": (16, 24), "U": (16, 24), "V": (24, 16)},
        [24],
    ),
    "attention": (
        SEQ + "{ q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv) a = Reshape(q, D) "
        "b = Reshape(k, D) c = Reshape(v, D) d = Transpose<perm=[0,2,1,3]>(a) "
        "e = Transpose<perm=[0,2,3,1]>(b) f = Transpose<perm=[0,2,1,3]>(c) s = MatMul(d, e) "
        "p = Softmax<axis=-1>(s) o = MatMul(p, f) t = Transpose<perm=[0,2,1,3]>(o) "
        "j = Reshape(t, B) y = MatMul(j, V) }",
        {"Wq": (16, 24), "Wk": (16, 24), "Wv": (16, 24), "V": (24, 16)},
        [4, 6, 6],
    ),
    "grouped queries": (
        SEQ + "{ q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv) a = Reshape(q, D) "
        "b = Reshape(k, C) c = Reshape(v, C) d = Transpose<perm=[0,2,1,3]>(a) "
        "e = Transpose<perm=[0,2,1,3]>(b) f = Transpose<perm=[0,2,1,3]>(c) "
        "eu = Unsqueeze(e, I) fu = Unsqueeze(f, I) ex = Expand(eu, X) fx = Expand(fu, X) "
        "er = Reshape(ex, Y) fr = Reshape(fx, Y) et = Transpose<perm=[0,1,3,2]>(er) "
        "s = MatMul(d, et) p = Softmax<axis=-1>(s) o = MatMul(p, fr) "
        "t = Transpose<perm=[0,2,1,3]>(o) j = Reshape(t, B) y = MatMul(j, V) }",
        {"Wq": (16, 24), "Wk": (16, 12), "Wv": (16, 12), "V": (24, 16)},
        [2, 2, 6, 6],
    ),
    "lstm": (
        "(float[5,2,16] x) => (float[?,?] y) { o, h, c = LSTM<hidden_size=12>(x, W, R, b) "
        "s = Squeeze(h, Q0) y = Gemm<transB=1>(s, V) }",
        {"W": (1, 48, 16), "R": (1, 48, 12), "b": (1, 96), "V": (4, 12)},
        [12],
    ),
    "gru of two directions": (
        "(float[5,2,16] x) => (float[?,?,?] y) "
        "{ o, h = GRU<hidden_size=12, direction='bidirectional'>(x, W, R, b) "
        "t = Transpose<perm=[0,2,1,3]>(o) s = Reshape(t, T3) y = MatMul(s, V) }",
        {"W": (2, 36, 16), "R": (2, 36, 12), "b": (2, 72), "V": (24, 4)},
        [12],
    ),
    "einsum": (
        FLAT + "{ h = MatMul(x, W) e = Einsum<equation='bi,io->bo'>(h, V) y = Relu(e) }",
        {"W": (16, 24), "V": (24, 4)},
        [24],
    ),
    "a branch": (
        "(float[2,16] x, bool c) => (float[?,?] y) { h = MatMul(x, W) "
        "k = If(c)<then_branch = t () => (float[2,24] r) { r = Relu(h) }, "
        "else_branch = e () => (float[2,24] q) { q = Sigmoid(h) }> y = MatMul(k, V) }",
        {"W": (16, 24), "V": (24, 4)},
        [24],
    ),
    "a tied weight": (
        FLAT + "{ h = MatMul(x, W) a = Relu(h) g = MatMul(a, U) r = Relu(g) y = MatMul(r, V) "
        "z = MatMul(x, W) }",
        {"W": (16, 24), "U": (24, 8), "V": (8, 4)},
        [8, 24],
    ),
}
SIZES = {
    "T": [2, 4, -1],
    "Z": [6, 4],
    "H": [6, 6],
    "L": [0],
    "M": [5],
    "O": [1],
    "P": [4, 1, 1, 0, 3, 2],
    "R": [2, -1],
    "E": [0, 0, 1, 1, 0, 0, 1, 1],
    "F": [0, 2, 0, 0, 0, 2, 0, 0],
    "J": [2, 4, 2, 2, 8, 8],
    "K": [2, 4, 16, 16],
    "G": [2, 3, 4, 8, 8],
    "N": [2, 12, 8, 8],
    "D": [2, 5, 4, 6],
    "C": [2, 5, 2, 6],
    "I": [2],
    "X": [2, 2, 2, 5, 6],
    "Y": [2, 4, 5, 6],
    "B": [2, 5, 24],
    "Q0": [0],
    "T3": [5, 2, 24],
}


def graph(name: str) -> ModelProto:
    text, weights, _ = SHAPES[name]
    rng = np.random.default_rng(3)
    drawn = {key: rng.standard_normal(shape).astype("f") for key, shape in weights.items()}
    if "v" in drawn:
        drawn["v"] = np.abs(drawn["v"]) + np.float32(0.1)
    words = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    known = {key: np.array(numbers) for key, numbers in SIZES.items() if key in words}
    if "S" in words:
        known["S"] = np.array([1, 1, 2, 2], np.float32)
    return parsed(text.replace("'", '"'), opset=17, **(known | drawn))


def channels_of(proto: ModelProto) -> tuple[Channels, dict[str, np.ndarray]]:
    model = from_proto(proto)
    feed = feed_of(model, "normal", 2)
    return find_channels(model, Shapes(model, feed)), feed


@pytest.mark.parametrize("name", SHAPES)
def test_groups_are_found_and_removed_exactly(name):
    channels, feed = channels_of(graph(name))
    assert sorted(group.size for group in channels.groups) == SHAPES[name][2]
    found = list(exactness(channels.model, feed, 0.3, channels=channels))
    assert len(found) == len(channels.groups)
    for each in found:
        assert each.error < 1e-5, each.group
        assert each.effect > 1e-4 or name == "slice", each.group  # half of it is read by nothing


@pytest.mark.parametrize("name", SHAPES)
def test_all_groups_at_once(name):
    channels, feed = channels_of(graph(name))
    removed = channels.removed(*(group.members[-1] for group in channels.groups))
    one = run(masked(channels, removed), **feed)
    other = run(without(channels, removed), **feed)
    for a, b in zip(one, other, strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a)


BARRIERS = {
    "an output": (FLAT + "{ h = MatMul(x, W) y = MatMul(h, V) z = Relu(h) }", "output", True),
    "layer normalization": (
        FLAT + "{ h = MatMul(x, W) n = LayerNormalization(h, s) y = MatMul(n, V) }",
        "LayerNormalization",
        False,
    ),
    "softmax": (FLAT + "{ h = MatMul(x, W) n = Softmax(h) y = MatMul(n, V) }", "Softmax", False),
    "a sum": (
        FLAT + "{ h = MatMul(x, W) n = ReduceMean<axes=[1]>(h) a = Sub(h, n) y = MatMul(a, V) }",
        "ReduceMean",
        False,
    ),
    "a custom operator": (
        FLAT + "{ h = MatMul(x, W) n = com.microsoft.Inverse(h) y = MatMul(h, V) "
        "o = com.microsoft.NGramRepeatBlock(h) }",
        "not known",
        False,
    ),
    "a size that is computed with": (
        FLAT + "{ h = MatMul(x, W) z = Shape(h) f = Cast<to=1>(z) o = Gather(f, i1) r = Sqrt(o) "
        "a = Div(h, r) y = MatMul(a, V) }",
        "computes with its size",
        False,
    ),
}


@pytest.mark.parametrize("name", BARRIERS)
def test_what_cannot_be_proved_stays_with_a_reason(name):
    text, reason, given_out = BARRIERS[name]
    rng = np.random.default_rng(0)
    weights = {"W": (16, 8), "s": (8,), "V": (8, 4)}
    drawn = {k: rng.standard_normal(s).astype("f") for k, s in weights.items()}
    proto = parsed(text, i1=np.array(1), **drawn)
    if given_out:
        proto.graph.output.add().CopyFrom(proto.graph.output[0])
        proto.graph.output[1].name = "h"
    model = from_proto(proto)
    channels = find_channels(model, Shapes(model))
    assert not channels.groups
    assert any(reason in text for text in channels.stuck), channels.stuck


def test_a_size_of_another_axis_may_be_computed_with():
    text = FLAT + (
        "{ h = MatMul(x, W) z = Shape(h) b = Gather(z, i0) u = Unsqueeze(b, i0u) "
        "t = Concat<axis=0>(u, m) r = Reshape(h, t) y = MatMul(r, V) }"
    )
    rng = np.random.default_rng(0)
    proto = parsed(
        text,
        W=rng.standard_normal((16, 8)).astype("f"),
        V=rng.standard_normal((8, 4)).astype("f"),
        i0=np.array(0),
        i0u=np.array([0]),
        m=np.array([8]),
    )
    channels, feed = channels_of(proto)
    assert [group.size for group in channels.groups] == [8]
    assert all(each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels))


def test_a_shared_bias_does_not_tie_two_layers():
    proto = parsed(
        FLAT + "{ h = Gemm(x, W, z) a = Relu(h) g = Gemm(a, U, z) r = Relu(g) y = MatMul(r, V) }",
        **{
            name: np.random.default_rng(1).standard_normal(shape).astype("f")
            for name, shape in {"W": (16, 8), "U": (8, 8), "z": (8,), "V": (8, 4)}.items()
        },
    )
    channels, feed = channels_of(proto)
    assert [group.size for group in channels.groups] == [8, 8]
    assert all(each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels))


def test_declared_shapes_of_inner_values_are_forgotten():
    proto = graph("two convolutions")
    info = proto.graph.value_info.add(name="h")
    info.type.tensor_type.elem_type = 1
    for size in (2, 8, 6, 6):
        info.type.tensor_type.shape.dim.add(dim_value=size)
    channels, feed = channels_of(proto)
    assert [each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels)]


def test_an_axis_is_never_emptied():
    channels, _ = channels_of(graph("two convolutions"))
    removed = channels.removed(*channels.groups[0].members)
    assert channels.empties(removed)
    with pytest.raises(PreconditionError, match="nothing would be left"):
        without(channels, removed)


def test_savings_are_those_of_the_model():
    channels, feed = channels_of(graph("two convolutions"))
    removed = channels.removed(*channels.groups[0].members[:2])
    cut = without(channels, removed)
    after = find_channels(cut, Shapes(cut, feed))
    none = after.none()
    assert channels.macs(removed) == pytest.approx(after.macs(none))
    assert channels.nbytes(removed) == pytest.approx(after.nbytes(none))


@examples(60)
@given(proto=models())
def test_drawn_models(proto: ModelProto) -> None:
    model = from_proto(proto)
    for each in exactness(model, feed_of(model, "normal", 1, 1)):
        assert each.error <= max(1e-5, 4 * each.rounding), each.group
