"""Products of matrices."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import ALL, MOST, WIDE, Spec, ranked


def _each(x: Known, axis: int) -> tuple[int, int]:
    """How many weights, and how many results, one more feature in place of an axis takes."""
    size = x.shape[axis]
    return size, x.size // max(size, 1)


def _matmul(b: Builder, x: Known) -> Known:
    """With a weight on the right."""
    rows = b.width(*_each(x, -1))
    weight = b.weight((x.shape[-1], rows), x.dtype, x.shape[-1])
    return b.add("MatMul", [x, weight], x, (*x.shape[:-1], rows))


def _matmul_left(b: Builder, x: Known) -> Known:
    """With a weight on the left."""
    rows = b.width(*_each(x, -2))
    weight = b.weight((rows, x.shape[-2]), x.dtype, x.shape[-2])
    return b.add("MatMul", [weight, x], x, (*x.shape[:-2], rows, x.shape[-1]))


def _batched(b: Builder, x: Known) -> Known:
    """With a weight for each matrix of the last batch axis."""
    rows = b.width(x.shape[-3] * x.shape[-1], *_each(x, -1))
    weight = b.weight((x.shape[-3], x.shape[-1], rows), x.dtype, x.shape[-1])
    return b.add("MatMul", [x, weight], x, (*x.shape[:-1], rows))


def _of_two(b: Builder, x: Known) -> Known:
    """Of a value with its own transpose."""
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    shape = (*x.shape[:-2], x.shape[-1], x.shape[-2])
    other = b.add("Transpose", [x], x, shape, perm=perm)
    scale = b.constant(np.array(1 / x.shape[-1], x.dtype))
    product = b.add("MatMul", [x, other], x, (*x.shape[:-1], x.shape[-2]), degree=2)
    return b.add("Mul", [product, scale], product)


def _gemm(b: Builder, x: Known) -> Known:
    rows, columns = b.width(*x.shape), x.shape[1]
    turned = b.flag()
    weight = b.weight((rows, columns) if turned else (columns, rows), x.dtype, columns)
    inputs: list[str | Known] = [x, weight]
    if b.flag():
        inputs.append(b.weight(b.one_of([(rows,), (1, rows), (1,), ()]), x.dtype))
    options: dict[str, float] = {"transB": 1} if turned else {}
    if b.flag():
        options |= {"alpha": 0.5, "beta": 2.0}
    return b.add("Gemm", inputs, x, (x.shape[0], rows), options=options)


def _gemm_turned(b: Builder, x: Known) -> Known:
    """With transA: the features are the first axis."""
    rows = b.width(*x.shape)
    weight = b.weight((x.shape[0], rows), x.dtype, x.shape[0])
    return b.add("Gemm", [x, weight], x, (x.shape[1], rows), transA=1)


def _einsum(b: Builder, x: Known) -> Known:
    rows = b.width(*_each(x, -1))
    weight = b.weight((x.shape[-1], rows), x.dtype, x.shape[-1])
    letters = "abcd"[: x.rank - 1]
    equation = f"{letters}k,kn->{letters}n"
    return b.add("Einsum", [x, weight], x, (*x.shape[:-1], rows), equation=equation)


_MATRIX = ranked(2, 3, 4)


def _rows(known: Known) -> bool:
    return known.is_float and known.rank > (1 if known.open else 0)


def _squares(known: Known) -> int:
    """Size of the product of a value with its own transpose."""
    return known.size // max(known.shape[-1], 1) * known.shape[-2]


def _closed_matrix(known: Known) -> bool:
    return known.is_float and known.rank == 2 and not known.open


PRODUCTS = (
    Spec(("MatMul",), _rows, _matmul, floats=ALL),
    Spec(("MatMul",), lambda k: k.is_float and k.rank > 2, _matmul_left, floats=ALL),
    Spec(("MatMul",), lambda k: _MATRIX(k) and k.rank > 3 - (not k.open), _batched, floats=WIDE),
    Spec(
        ("MatMul", "Transpose", "Mul"),
        lambda k: k.is_float and k.rank > 2 and k.degree <= 1 and _squares(k) <= MOST,
        _of_two,
        block="self_product",
    ),
    Spec(("Gemm",), ranked(2), _gemm, floats=ALL),
    Spec(("Gemm",), _closed_matrix, _gemm_turned, floats=WIDE),
    Spec(("Einsum",), ranked(2, 3, 4), _einsum, since=12, floats=WIDE),
)
