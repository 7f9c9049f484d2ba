"""Pooling, and sizes of pictures."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import MOST, Add, Spec, ranked

_BLOCKS = (2, 3)  # sizes of SpaceToDepth's


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
    region = "" if b.opset >= 13 else b.constant(np.zeros(0, np.float32))
    scales = b.constant(np.array([1, 1, *[factor] * (x.rank - 2)], np.float32))
    mode = b.one_of(["nearest", "linear"]) if x.rank == 4 else "nearest"
    return b.add(
        "Resize",
        [x, region, scales],
        x,
        shape,
        mode=mode,
        coordinate_transformation_mode=b.one_of(["asymmetric", "half_pixel"]),
        nearest_mode="floor",
    )


def _to_depth(b: Builder, x: Known) -> Known:
    batch, channels, height, width = x.shape
    n = b.one_of([n for n in _BLOCKS if not (height % n or width % n)])
    shape = (batch, n * n * channels, height // n, width // n)
    return b.add("SpaceToDepth", [x], x, shape, blocksize=n)


def _to_space(b: Builder, x: Known) -> Known:
    batch, channels, height, width = x.shape
    n = b.one_of([n for n in _BLOCKS if channels % (n * n) == 0])
    shape = (batch, channels // (n * n), n * height, n * width)
    return b.add("DepthToSpace", [x], x, shape, blocksize=n, mode=b.one_of(["DCR", "CRD"]))


def _even(known: Known) -> bool:
    """Whose last two sizes have a divisor in common."""
    return ranked(4)(known) and any(not (known.shape[2] % n or known.shape[3] % n) for n in _BLOCKS)


def _squared(known: Known) -> bool:
    """Whose number of channels a square divides."""
    return ranked(4)(known) and any(known.shape[1] % (n * n) == 0 for n in _BLOCKS)


def _growing(known: Known) -> bool:
    return ranked(3, 4, 5)(known) and 2 ** (known.rank - 2) * known.size <= MOST


POOLING = (
    *(Spec((op,), ranked(3, 4, 5), _pool(op), since=11) for op in ("MaxPool", "AveragePool")),
    Spec(("LpPool",), ranked(4), _pool("LpPool"), since=11),
    *(Spec((op,), ranked(3, 4), _whole(op)) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    Spec(("Resize",), _growing, _resize, since=11),
    Spec(("SpaceToDepth",), _even, _to_depth, since=13),
    Spec(("DepthToSpace",), _squared, _to_space, since=13),
)
