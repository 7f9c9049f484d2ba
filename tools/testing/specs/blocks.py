"""Blocks of several nodes, spelled as exporters do."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Spec, ranked
from onnx_compress.testing.specs.attention import attention, projected
from onnx_compress.testing.specs.normalization import batch_norm


def _residual(b: Builder, x: Known) -> Known:
    """x + f(x) of a small feed-forward block."""
    inner = projected(b, x, 2 * x.shape[-1])
    active = b.add("Relu", [inner], inner)
    out = projected(b, active, x.shape[-1])
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
    out = b.width(channels, x.size // max(channels, 1))
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
    rows, columns = b.width(*x.shape), x.shape[1]
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


_WIDEST = 128  # features and tokens of what has weights or scores of their square


def _sequence(known: Known) -> bool:
    return ranked(3)(known) and known.degree <= 1 and max(known.shape[1:]) <= _WIDEST


def _narrow(known: Known) -> bool:
    return ranked(2, 3)(known) and known.shape[-1] <= _WIDEST


def _few_channels(known: Known) -> bool:
    return _light(known) and known.shape[1] <= _WIDEST


def _light(known: Known) -> bool:
    return known.is_float and known.rank in (3, 4) and known.size <= 5000


def _any(known: Known) -> bool:
    return known.is_float


_CUT = ("Split", "Reshape", "Transpose", "Gather")
_HEADS = ("MatMul", *_CUT, "Div", "Mul", "Softmax", "Add")
_EXCITE = ("GlobalAveragePool", "Conv", "Relu", "Sigmoid", "Mul")

BLOCKS = (
    Spec(_HEADS, _sequence, attention, since=13, block="attention"),
    Spec(("MatMul", "Relu", "Add"), _narrow, _residual, 7, keeps=True, block="residual"),
    Spec(("Conv", "Relu", "Concat"), _light, _dense, block="dense"),
    Spec(_EXCITE, _few_channels, _squeeze_excite, keeps=True, block="squeeze_excite"),
    Spec(("Conv", "BatchNormalization", "Relu"), _light, _conv_norm, 9, block="conv_norm"),
    Spec(("Gather", "Transpose", "MatMul"), _any, _embedding, block="embedding"),
    Spec(("Flatten", "Gemm", "Relu"), ranked(2, 3, 4), _classifier, 9, block="classifier"),
    Spec(("Div", "Erf", "Add", "Mul"), _any, _gelu, 9, keeps=True, block="gelu"),
    Spec(("Sigmoid", "Mul"), _any, _swish, keeps=True, block="swish"),
)
