"""Graphs whose channels belong together in one way or another."""

import numpy as np
from onnx import ModelProto

from graphs import parsed

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
