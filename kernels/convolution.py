"""Convolution of 8-bit integers, as products of patches.

    x [N, C, *size] -> patches [N * L, kernel * C/g] @ w [kernel * C/g, O/g] -> y [N, O, *L]

Patches are laid out with the channel last, which is also the order in which pairs saturate. What is
beyond the border is the zero point of x, and so adds nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.integer import combined_scale, matmul_integer
from onnx_compress.kernels.linear import requantize
from onnx_compress.kernels.machine.compiled import kernel
from onnx_compress.kernels.machine.threads import spread

Array = npt.NDArray[Any]


def conv_integer(
    x: Array,
    w: Array,
    x_zero: Any = 0,
    w_zero: Any = 0,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    saturate: bool = False,
    threads: int = 1,
    path: str | None = None,
) -> Array:
    """int32 [N, O, *L] of x [N, C, *size] and w [O, C/group, *kernel]: ConvInteger.

    x, w: int8 or uint8, any number of spatial axes. `x_zero`: one integer; `w_zero`: one, or one
    for each output channel. `pads`: begins, then ends, as in ONNX. Raises ValueError where shapes
    or types do not fit.
    """
    if any(a.dtype not in (np.int8, np.uint8) for a in (x, w)):
        raise ValueError(f"x and w are int8 or uint8, not {x.dtype} and {w.dtype}")
    rank = x.ndim - 2
    if rank < 1 or w.ndim != x.ndim or w.shape[1] * group != x.shape[1] or w.shape[0] % group:
        raise ValueError(f"x of shape {x.shape} and w of {w.shape} do not fit in {group} groups")
    zero = int(np.asarray(x_zero).reshape(()))
    zeros = np.broadcast_to(np.asarray(w_zero, np.int32).reshape(-1), w.shape[:1])
    view = _patches(
        x,
        zero,
        w.shape[2:],
        tuple(strides or (1,) * rank),
        tuple(pads or (0,) * 2 * rank),
        tuple(dilations or (1,) * rank),
    )
    batch, places = view.shape[0], view.shape[1 : 1 + rank]
    count = batch * int(np.prod(places))
    taps = int(np.prod(w.shape[2:]))
    outs, ins = w.shape[0] // group, w.shape[1]
    if ins == 1 and group > 1:
        patches = np.ascontiguousarray(view).reshape(count, taps, group)
        weights = w.reshape(group, outs, taps).astype(np.int32) - zeros.reshape(group, outs, 1)
        sums = _depthwise(patches, zero, np.ascontiguousarray(weights.transpose(2, 1, 0)), threads)
    else:
        sums = np.empty((count, group, outs), np.int32)
        for at in range(group):
            own = slice(at * ins, (at + 1) * ins)
            rows = np.ascontiguousarray(view[..., own]).reshape(count, taps * ins)
            part = w[at * outs : (at + 1) * outs]
            columns = np.moveaxis(part, 1, -1).reshape(outs, taps * ins).T
            sums[:, at] = matmul_integer(
                rows,
                columns,
                zero,
                zeros[at * outs : (at + 1) * outs],
                saturate=saturate,
                threads=threads,
                path=path,
            )
    spread_out = sums.reshape(batch, *places, w.shape[0])
    return np.ascontiguousarray(np.moveaxis(spread_out, -1, 1))


def qlinear_conv(
    x: Array,
    x_scale: Any,
    x_zero: Any,
    w: Array,
    w_scale: Any,
    w_zero: Any,
    y_scale: Any,
    y_zero: Any,
    bias: Array | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    saturate: bool = False,
    threads: int = 1,
    path: str | None = None,
) -> Array:
    """Codes [N, O, *L] of the type of `y_zero`: QLinearConv; see `conv_integer`.

    `bias`: int32 [O], added to the sums. `w_scale`: one float, or one for each output channel.
    """
    sums = conv_integer(
        x,
        w,
        x_zero,
        w_zero,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
        saturate=saturate,
        threads=threads,
        path=path,
    )
    if bias is not None:
        sums += bias.astype(np.int32).reshape(1, -1, *(1,) * (x.ndim - 2))
    zero = np.asarray(y_zero)
    scale = combined_scale(x_scale, w_scale, y_scale)
    return requantize(sums, scale, int(zero.reshape(())), axis=1, dtype=zero.dtype, threads=threads)


def _patches(
    x: Array,
    zero: int,
    kernel_shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Array:
    """A view [N, *places, *kernel, C] of x, channels last, padded with its zero point."""
    rank = len(kernel_shape)
    around = [(0, 0), *zip(pads[:rank], pads[rank:], strict=True), (0, 0)]
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    padded = np.pad(last, around, constant_values=zero) if any(pads) else last
    sizes = padded.shape[1:-1]
    places = tuple(
        max(0, (size - dilation * (taps - 1) - 1) // stride + 1)
        for size, taps, stride, dilation in zip(
            sizes, kernel_shape, strides, dilations, strict=True
        )
    )
    steps = padded.strides
    inner = steps[1:-1]
    return np.lib.stride_tricks.as_strided(
        padded,
        (padded.shape[0], *places, *kernel_shape, padded.shape[-1]),
        (
            steps[0],
            *(step * stride for step, stride in zip(inner, strides, strict=True)),
            *(step * dilation for step, dilation in zip(inner, dilations, strict=True)),
            steps[-1],
        ),
        writeable=False,
    )


def _depthwise(patches: Array, zero: int, weights: Array, threads: int) -> Array:
    """[places, groups, outs] of patches [places, taps, groups] and weights [taps, outs, groups]."""
    count, _, groups = patches.shape
    out = np.empty((count, weights.shape[1], groups), np.int32)

    def job(start: int, stop: int) -> None:
        _taps(patches[start:stop], zero, weights, out[start:stop])

    if out.size:
        spread(job, count, 64, threads)
    return np.ascontiguousarray(out.transpose(0, 2, 1))


@kernel(writes=("out",))
def _taps(patches: Any, zero: int, weights: Any, out: Any) -> None:
    for at in range(patches.shape[0]):
        for o in range(weights.shape[1]):
            for g in range(weights.shape[2]):
                out[at, o, g] = 0
            for tap in range(weights.shape[0]):
                for g in range(weights.shape[2]):
                    value = np.int32(np.int32(patches[at, tap, g]) - zero)
                    out[at, o, g] = np.int32(out[at, o, g] + value * weights[tap, o, g])
