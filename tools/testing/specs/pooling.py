"""Pooling, and sizes of pictures."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import MOST, Add, Spec, ranked


def _pool(op: str) -> Add:
    def add(b: Builder, x: Known) -> Known:
        space = x.shape[2:]
        kernel = [b.integer(1, min(3, size)) for size in space]
        strides = [b.integer(1, 2) for _ in space]
        begins, ends = ([b.integer(0, min(1, k - 1)) for k in kernel] for _ in range(2))
        sizes = tuple(
            (size + before + after - k) // stride + 1
            for size, before, after, k, stride in zip(
                space, begins, ends, kernel, strides, strict=True
            )
        )
        options = {"count_include_pad": b.integer(0, 1)} if op == "AveragePool" else {}
        return b.add(
            op,
            [x],
            x,
            (*x.shape[:2], *sizes),
            kernel_shape=kernel,
            strides=strides,
            pads=[*begins, *ends],
            options=options,
        )

    return add


def _whole(op: str) -> Add:
    def add(b: Builder, x: Known) -> Known:
        return b.add(op, [x], x, (*x.shape[:2], *[1] * (x.rank - 2)))

    return add


def _resize(b: Builder, x: Known) -> Known:
    factor = b.integer(1, 2)
    shape = (*x.shape[:2], *(factor * size for size in x.shape[2:]))
    scales = b.constant(np.array([1, 1, *[factor] * (x.rank - 2)], np.float32))
    mode = b.one_of(["nearest", "linear"]) if x.rank < 5 else "nearest"
    return b.add(
        "Resize",
        [x, "", scales],
        x,
        shape,
        mode=mode,
        coordinate_transformation_mode=b.one_of(["asymmetric", "half_pixel"]),
        nearest_mode="floor",
    )


def _to_depth(b: Builder, x: Known) -> Known:
    batch, channels, height, width = x.shape
    return b.add(
        "SpaceToDepth", [x], x, (batch, 4 * channels, height // 2, width // 2), blocksize=2
    )


def _to_space(b: Builder, x: Known) -> Known:
    batch, channels, height, width = x.shape
    shape = (batch, channels // 4, 2 * height, 2 * width)
    return b.add("DepthToSpace", [x], x, shape, blocksize=2, mode=b.one_of(["DCR", "CRD"]))


POOLING = (
    *(Spec((op,), ranked(3, 4, 5), _pool(op), since=11) for op in ("MaxPool", "AveragePool")),
    Spec(("LpPool",), ranked(4), _pool("LpPool"), since=11),
    *(Spec((op,), ranked(3, 4), _whole(op)) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    Spec(("Resize",), lambda k: ranked(4)(k) and 4 * k.size <= MOST, _resize, since=11),
    Spec(
        ("SpaceToDepth",),
        lambda k: k.is_float and k.rank == 4 and not (k.shape[2] % 2 or k.shape[3] % 2),
        _to_depth,
        since=13,
    ),
    Spec(
        ("DepthToSpace",),
        lambda k: k.is_float and k.rank == 4 and k.shape[1] % 4 == 0,
        _to_space,
        since=13,
    ),
)
