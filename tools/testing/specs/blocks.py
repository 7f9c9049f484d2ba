"""Blocks of several nodes, spelled as exporters do."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Spec, ranked
from onnx_compress.testing.specs.normalization import batch_norm


def _attention(b: Builder, x: Known) -> Known:
    """Multi-head self-attention over [batch, tokens, features]."""
    batch, tokens, features = x.shape
    heads = b.one_of([1, *(n for n in (2, 4) if features % n == 0)])
    width = features // heads
    packed = b.flag()
    if packed:
        weight = b.weight((features, 3 * features), x.dtype, features)
        whole = b.add("MatMul", [x, weight], x, (batch, tokens, 3 * features))
        parts = [features] * 3
        inputs, options = ([b.integers(*parts)], {}) if b.opset >= 13 else ([], {"split": parts})
        shapes = [x.shape] * 3
        b.add("Split", [whole, *inputs], x, outputs=shapes, axis=2, options=options)
        three = b.scope.pool[-3:]
    else:
        three = [_projected(b, x, features) for _ in range(3)]
    split = b.integers(0, tokens, heads, width)
    cut = (batch, heads, tokens, width)
    sides = []
    for at, part in enumerate(three):
        apart = b.add("Reshape", [part, split], part, (batch, tokens, heads, width))
        perm = [0, 2, 3, 1] if at == 1 else [0, 2, 1, 3]
        shape = (batch, heads, width, tokens) if at == 1 else cut
        sides.append(b.add("Transpose", [apart], apart, shape, perm=perm))
    query, key, value = sides
    scores = b.add("MatMul", [query, key], query, (batch, heads, tokens, tokens), degree=2)
    root = np.array(width**0.5, x.dtype)
    if b.flag():
        scores = b.add("Div", [scores, b.constant(root)], scores)
    else:
        scores = b.add("Mul", [scores, b.constant(1 / root)], scores)
    if b.flag():
        mask = np.triu(np.full((tokens, tokens), -1e4, x.dtype), 1)
        scores = b.add("Add", [scores, b.constant(mask)], scores)
    shares = b.add("Softmax", [scores], scores, degree=1, axis=-1)
    mixed = b.add("MatMul", [shares, value], value, cut, degree=x.degree)
    back = b.add("Transpose", [mixed], mixed, (batch, tokens, heads, width), perm=[0, 2, 1, 3])
    joined = b.add("Reshape", [back, b.integers(0, tokens, features)], back, x.shape)
    return _projected(b, joined, features)


def _projected(b: Builder, x: Known, rows: int) -> Known:
    weight = b.weight((x.shape[-1], rows), x.dtype, x.shape[-1])
    made = b.add("MatMul", [x, weight], x, (*x.shape[:-1], rows))
    return b.add("Add", [made, b.weight((rows,), x.dtype)], made) if b.flag() else made


def _residual(b: Builder, x: Known) -> Known:
    """x + f(x) of a small feed-forward block."""
    inner = _projected(b, x, 2 * x.shape[-1])
    active = b.add("Relu", [inner], inner)
    out = _projected(b, active, x.shape[-1])
    return b.add("Add", [x, out], x)


def _dense(b: Builder, x: Known) -> Known:
    """[x, f(x)] along the channels."""
    weight = b.weight((4, x.shape[1], *[1] * (x.rank - 2)), x.dtype, x.shape[1])
    bias = [b.weight((4,), x.dtype)] if b.flag() else []
    made = b.add("Conv", [x, weight, *bias], x, (x.shape[0], 4, *x.shape[2:]))
    active = b.add("Relu", [made], made)
    shape = (x.shape[0], x.shape[1] + 4, *x.shape[2:])
    return b.add("Concat", [x, active], x, shape, axis=1)


def _squeeze_excite(b: Builder, x: Known) -> Known:
    """Channels weighed by what is in them."""
    channels, inner = x.shape[1], max(x.shape[1] // 4, 1)
    ones = [1] * (x.rank - 2)
    mean = b.add("GlobalAveragePool", [x], x, (*x.shape[:2], *ones))
    down = b.weight((inner, channels, *ones), x.dtype, channels)
    small = b.add("Conv", [mean, down, b.weight((inner,), x.dtype)], x, (x.shape[0], inner, *ones))
    active = b.add("Relu", [small], small)
    up = b.weight((channels, inner, *ones), x.dtype, inner)
    large = b.add("Conv", [active, up], mean)
    gate = b.add("Sigmoid", [large], large, degree=0)
    return b.add("Mul", [x, gate], x)


def _conv_norm(b: Builder, x: Known) -> Known:
    """Conv, BatchNormalization, activation; or the other way round."""
    channels, space = x.shape[1], x.shape[2:]
    if b.flag():
        x = batch_norm(b, x)
    out = b.width()
    weight = b.weight((out, channels, *[1] * len(space)), x.dtype, channels)
    made = b.add("Conv", [x, weight], x, (x.shape[0], out, *space))
    return b.add("Relu", [batch_norm(b, made)], made)


def _embedding(b: Builder, x: Known) -> Known:
    """Rows of a table, picked by a new input; tied to a product where there is a choice."""
    rows, features = b.one_of([4, 16, 64]), b.width()
    table = b.weight((rows, features), x.dtype)
    ids = b.ids(rows, open=x.open)
    found = b.add("Gather", [table, ids], x, (*ids.shape, features), degree=1, axis=0)
    if not b.flag():
        return found
    turned = b.add("Transpose", [table], x, (features, rows), open=False, degree=0, perm=[1, 0])
    return b.add("MatMul", [found, turned], found, (*ids.shape, rows))


def _classifier(b: Builder, x: Known) -> Known:
    """Flatten, and one or two layers as torch writes them: Gemm with transB."""
    if x.rank > 2:
        x = b.add("Flatten", [x], x, (x.shape[0], x.size // x.shape[0]), axis=1)
    if b.flag():
        x = _linear(b, x)
        x = b.add("Relu", [x], x)
    return _linear(b, x)


def _linear(b: Builder, x: Known) -> Known:
    rows, columns = b.width(), x.shape[1]
    inputs = [b.weight((rows, columns), x.dtype, columns), b.weight((rows,), x.dtype)]
    return b.add("Gemm", [x, *inputs], x, (x.shape[0], rows), transB=1)


def _gelu(b: Builder, x: Known) -> Known:
    """x * (1 + erf(x / sqrt 2)) / 2, as exporters before operator set 20 write it."""
    scaled = b.add("Div", [x, b.constant(np.array(2**0.5, x.dtype))], x)
    erf = b.add("Erf", [scaled], x, degree=0)
    one = b.add("Add", [erf, b.constant(np.array(1, x.dtype))], erf)
    gated = b.add("Mul", [x, one], x)
    return b.add("Mul", [gated, b.constant(np.array(0.5, x.dtype))], gated)


def _swish(b: Builder, x: Known) -> Known:
    return b.add("Mul", [x, b.add("Sigmoid", [x], x, degree=0)], x)


def _sequence(known: Known) -> bool:
    return known.is_float and known.rank == 3 and known.degree <= 1


def _light(known: Known) -> bool:
    return known.is_float and known.rank in (3, 4) and known.size <= 5000


def _any(known: Known) -> bool:
    return known.is_float


_HEADS = ("MatMul", "Split", "Reshape", "Transpose", "Div", "Mul", "Softmax", "Add")
_EXCITE = ("GlobalAveragePool", "Conv", "Relu", "Sigmoid", "Mul")

BLOCKS = (
    Spec(_HEADS, _sequence, _attention, since=13, block="attention"),
    Spec(("MatMul", "Relu", "Add"), ranked(2, 3), _residual, 7, keeps=True, block="residual"),
    Spec(("Conv", "Relu", "Concat"), _light, _dense, block="dense"),
    Spec(_EXCITE, _light, _squeeze_excite, keeps=True, block="squeeze_excite"),
    Spec(("Conv", "BatchNormalization", "Relu"), _light, _conv_norm, 9, block="conv_norm"),
    Spec(("Gather", "Transpose", "MatMul"), _any, _embedding, block="embedding"),
    Spec(("Flatten", "Gemm", "Relu"), ranked(2, 3, 4), _classifier, 9, block="classifier"),
    Spec(("Div", "Erf", "Add", "Mul"), _any, _gelu, 9, keeps=True, block="gelu"),
    Spec(("Sigmoid", "Mul"), _any, _swish, keeps=True, block="swish"),
)
