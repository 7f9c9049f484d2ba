"""Convolutions of one to three dimensions."""

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Spec, ranked

_FEW = (1, 2, 4, 8)  # channels of a group


def _groups(b: Builder, channels: int) -> int:
    """A divisor of the channels: one, all (depthwise), or another."""
    return b.one_of([1, *(n for n in (channels, 2, 3, 4) if n > 1 and channels % n == 0)])


def _conv(b: Builder, x: Known) -> Known:
    channels, space = x.shape[1], x.shape[2:]
    groups = _groups(b, channels)
    kernel = [b.integer(1, min(3, size)) for size in space]
    fan = channels // groups * _product(kernel)
    each = (groups * fan, groups * x.size // max(channels, 1))
    out = groups * b.width(*each, sizes=_FEW) if groups > 1 else b.width(*each)
    dilations = [
        b.integer(1, 2) if k > 1 and 2 * (k - 1) < s else 1
        for k, s in zip(kernel, space, strict=True)
    ]
    strides = [b.integer(1, 2) for _ in space]
    begins, ends = ([b.integer(0, 1) for _ in space] for _ in range(2))
    sizes = tuple(
        (size + before + after - dilation * (k - 1) - 1) // stride + 1
        for size, before, after, dilation, k, stride in zip(
            space, begins, ends, dilations, kernel, strides, strict=True
        )
    )
    inputs: list[str | Known] = [x, b.weight((out, channels // groups, *kernel), x.dtype, fan)]
    if b.flag():
        inputs.append(b.weight((out,), x.dtype))
    return b.add(
        "Conv",
        inputs,
        x,
        (x.shape[0], out, *sizes),
        group=groups,
        kernel_shape=kernel if b.flag() else None,
        dilations=dilations,
        strides=strides,
        pads=[*begins, *ends],
    )


def _same(b: Builder, x: Known) -> Known:
    """With automatic padding."""
    channels, space = x.shape[1], x.shape[2:]
    fan = channels * 3 ** len(space)
    out = b.width(fan, x.size // max(channels, 1))
    weight = b.weight((out, channels, *[3] * len(space)), x.dtype, fan)
    bias = [b.weight((out,), x.dtype)] if b.flag() else []
    mode = b.one_of(["SAME_UPPER", "SAME_LOWER"])
    return b.add("Conv", [x, weight, *bias], x, (x.shape[0], out, *space), auto_pad=mode)


def _transposed(b: Builder, x: Known) -> Known:
    channels, space = x.shape[1], x.shape[2:]
    groups = _groups(b, channels)
    kernel = [b.integer(1, 3) for _ in space]
    per = groups * x.size // max(channels, 1) * 2 ** len(space)
    out = b.width(channels * _product(kernel), per, sizes=_FEW)
    strides = [b.integer(1, 2) for _ in space]
    extra = [b.integer(0, stride - 1) for stride in strides]
    sizes = tuple(
        (size - 1) * stride + k + more
        for size, stride, k, more in zip(space, strides, kernel, extra, strict=True)
    )
    inputs: list[str | Known] = [x, b.weight((channels, out, *kernel), x.dtype, channels // groups)]
    if b.flag():
        inputs.append(b.weight((out * groups,), x.dtype))
    return b.add(
        "ConvTranspose",
        inputs,
        x,
        (x.shape[0], out * groups, *sizes),
        group=groups,
        strides=strides,
        output_padding=extra,
    )


def _product(numbers: list[int]) -> int:
    found = 1
    for number in numbers:
        found *= number
    return found


CONVOLUTION = (
    Spec(("Conv",), ranked(3, 4, 5), _conv, since=11),
    Spec(("Conv",), ranked(3, 4), _same, since=11),
    Spec(("ConvTranspose",), ranked(3, 4), _transposed, since=11),
)
