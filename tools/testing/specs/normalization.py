"""Normalizations."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Spec, ranked


def batch_norm(b: Builder, x: Known) -> Known:
    """BatchNormalization as at inference."""
    shape = (x.shape[1],)
    weights = [
        b.positive(shape, x.dtype),
        b.weight(shape, x.dtype),
        b.weight(shape, x.dtype),
        b.positive(shape, x.dtype),
    ]
    return b.add("BatchNormalization", [x, *weights], x, epsilon=1e-3 if b.flag() else 1e-5)


def _layer(b: Builder, x: Known) -> Known:
    axis = b.integer(1, x.rank - 1)
    shape = x.shape[axis:]
    inputs: list[str | Known] = [x, b.positive(shape, x.dtype)]
    if b.flag():
        inputs.append(b.weight(shape, x.dtype))
    place = axis - x.rank if b.flag() else axis
    return b.add("LayerNormalization", inputs, x, degree=1, axis=place, epsilon=1e-3)


def _spelled(b: Builder, x: Known) -> Known:
    """LayerNormalization as exporters before operator set 17 write it."""
    last = {"axes": [-1]} if b.opset < 18 else {}
    axes = [] if b.opset < 18 else [b.integers(-1)]
    narrow = (*x.shape[:-1], 1)
    mean = b.add("ReduceMean", [x, *axes], x, narrow, options=last)
    centred = b.add("Sub", [x, mean], x)
    square = b.add("Pow", [centred, b.constant(np.array(2, x.dtype))], x)
    variance = b.add("ReduceMean", [square, *axes], x, narrow, options=last)
    safe = b.add("Add", [variance, b.constant(np.array(1e-3, x.dtype))], variance)
    root = b.add("Sqrt", [safe], safe)
    normal = b.add("Div", [centred, root], x, degree=1)
    scaled = b.add("Mul", [normal, b.positive(x.shape[-1:], x.dtype)], normal)
    return b.add("Add", [scaled, b.weight(x.shape[-1:], x.dtype)], scaled)


def _instance(b: Builder, x: Known) -> Known:
    shape = (x.shape[1],)
    weights = [b.positive(shape, x.dtype), b.weight(shape, x.dtype)]
    return b.add("InstanceNormalization", [x, *weights], x, degree=1, epsilon=1e-2)


def _group(b: Builder, x: Known) -> Known:
    channels = x.shape[1]
    groups = b.one_of([1, *(n for n in (2, 3, 4) if channels % n == 0)])
    weights = [b.positive((channels,), x.dtype), b.weight((channels,), x.dtype)]
    return b.add("GroupNormalization", [x, *weights], x, degree=1, num_groups=groups, epsilon=1e-2)


def _lrn(b: Builder, x: Known) -> Known:
    return b.add("LRN", [x], x, size=2 * b.integer(0, 1) + 1)


def _root(b: Builder, x: Known) -> Known:
    weight = b.positive(x.shape[-1:], x.dtype)
    return b.add("RMSNormalization", [x, weight], x, degree=1, axis=-1, epsilon=1e-3)


def _spacious(known: Known) -> bool:
    """With room to take a mean over: of one number alone it would be that number."""
    return known.is_float and known.rank in (3, 4) and known.size // (known.shape[1] or 1) > 1


NORMALIZATION = (
    Spec(("BatchNormalization",), ranked(2, 3, 4), batch_norm, since=9, keeps=True),
    Spec(("LayerNormalization",), ranked(2, 3, 4), _layer, since=17, keeps=True),
    Spec(
        ("ReduceMean", "Sub", "Pow", "Add", "Sqrt", "Div", "Mul"),
        lambda k: k.is_float and k.rank in (2, 3) and k.degree <= 1,
        _spelled,
        keeps=True,
        block="layer_norm",
    ),
    Spec(("InstanceNormalization",), _spacious, _instance, keeps=True),
    Spec(("GroupNormalization",), _spacious, _group, since=21, keeps=True),
    Spec(("LRN",), ranked(4), _lrn, since=13, keeps=True),
    Spec(("RMSNormalization",), ranked(2, 3, 4), _root, since=23, keeps=True),
)
