"""Operators that work element by element."""

import numpy as np

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import ALL, Add, Spec, number

_MOST_DEGREE = 3


def _plain(op: str, bounded: bool = False, **attributes: float) -> Add:
    def add(b: Builder, x: Known) -> Known:
        return b.add(op, [x], x, degree=1 if bounded else None, options=attributes)

    return add


def _sized(op: str, name: str, low: float, high: float) -> Add:
    """With one attribute between two numbers."""

    def add(b: Builder, x: Known) -> Known:
        return b.add(op, [x], x, options={name: low + (high - low) * b.integer(0, 4) / 4})

    return add


def _after_abs(op: str) -> Add:
    """On numbers that are not negative."""

    def add(b: Builder, x: Known) -> Known:
        return b.add(op, [b.add("Add", [b.add("Abs", [x], x), _scalar(b, x, 0.1)], x)], x)

    return add


def _scalar(b: Builder, x: Known, number: float) -> str:
    return b.constant(np.array(number, x.dtype))


def _clip(b: Builder, x: Known) -> Known:
    kept = b.integer(0, 2)  # both bounds, the lower, or the upper
    inputs: list[str | Known] = [x, _scalar(b, x, -2.0) if kept < 2 else ""]
    if kept != 1:
        inputs.append(_scalar(b, x, 2.0))
    return b.add("Clip", inputs, x)


def _exp(b: Builder, x: Known) -> Known:
    low = b.add("Clip", [x, _scalar(b, x, -3.0), _scalar(b, x, 2.0)], x)
    return b.add("Exp", [low], x, degree=1)


def _shape_beside(b: Builder, x: Known) -> tuple[int, ...]:
    """A shape that can be broadcast to that of `x`, its open axis left alone."""
    first = 1 if x.open else 0
    shape = [size if b.flag() else 1 for size in x.shape]
    if x.open and shape:
        shape[0] = 1
    dropped = b.integer(0, x.rank) if not first else b.integer(0, 1)
    return tuple(shape[dropped:])


def _with_constant(op: str, positive: bool = False) -> Add:
    def add(b: Builder, x: Known) -> Known:
        shape = _shape_beside(b, x)
        other = b.positive(shape, x.dtype) if positive else b.weight(shape, x.dtype)
        pair: list[str | Known] = [x, other]
        if op in ("Add", "Mul", "Sub", "Max", "Min") and b.flag():
            pair.reverse()
        return b.add(op, pair, x)

    return add


def _with_another(op: str) -> Add:
    """With another value of the same shape, or with itself: residuals, gates."""

    def add(b: Builder, x: Known) -> Known:
        others = b.find(
            lambda k: (k.shape, k.dtype, k.open) == (x.shape, x.dtype, x.open) and k.degree <= 2
        )
        other = b.one_of(others or [x])
        degree = x.degree + other.degree if op == "Mul" else max(x.degree, other.degree)
        return b.add(op, [x, other], x, degree=degree)

    return add


def _several(op: str) -> Add:
    def add(b: Builder, x: Known) -> Known:
        others = b.find(lambda k: (k.shape, k.dtype, k.open) == (x.shape, x.dtype, x.open))
        count = b.integer(0, min(len(others), 2))
        return b.add(op, [x, *others[:count]], x)

    return add


def _where(b: Builder, x: Known) -> Known:
    mask = b.constant(b.rng.random(x.shape[1:] if x.open else x.shape) < 0.7)
    return b.add("Where", [mask, x, _scalar(b, x, -1.0)], x)


def _cast(b: Builder, x: Known) -> Known:
    """To a wider type, something there, and back.

    What is cast back is read by Neg alone: ONNX Runtime 1.32 fails to load a LayerNormalization of
    several nodes behind a Cast of doubles, since it fuses them all and so mixes the types.
    """
    wide = b.add("Cast", [x], x, dtype=np.float64, to=11)
    there = b.add("Neg", [wide], wide)
    back = b.add("Cast", [there], x, to=int(_ELEMENT[x.dtype.name]))
    b.scope.pool.remove(back)
    return b.add("Neg", [back], back)


_ELEMENT = {"float32": 1, "float16": 10, "float64": 11}


def _prelu(b: Builder, x: Known) -> Known:
    shape = (x.shape[1], *[1] * (x.rank - 2)) if x.rank > 1 else (1,)
    return b.add("PRelu", [x, b.weight(shape, x.dtype)], x)


def _power(b: Builder, x: Known) -> Known:
    return b.add("Pow", [x, _scalar(b, x, 2.0)], x, degree=2 * x.degree)


def _small(known: Known) -> bool:
    return known.is_float and known.degree < _MOST_DEGREE


_BOUNDED = ("Sigmoid", "Tanh", "Erf", "Softsign", "HardSigmoid")

ELEMENTWISE = (
    Spec(("Relu",), number, _plain("Relu"), keeps=True, floats=ALL),
    *(Spec((op,), number, _plain(op, True), keeps=True) for op in _BOUNDED),
    *(Spec((op,), number, _plain(op), keeps=True) for op in ("Abs", "Neg", "Softplus", "Selu")),
    *(Spec((op,), number, _plain(op, True), keeps=True) for op in ("Sin", "Cos", "Atan")),
    Spec(("HardSwish",), number, _plain("HardSwish"), since=14, keeps=True),
    Spec(("Mish",), number, _plain("Mish"), since=18, keeps=True),
    Spec(("Gelu",), number, _plain("Gelu"), since=20, keeps=True),
    Spec(("LeakyRelu",), number, _sized("LeakyRelu", "alpha", 0.0, 0.4), keeps=True),
    Spec(("Elu",), number, _sized("Elu", "alpha", 0.5, 1.5), keeps=True),
    Spec(("Celu",), number, _sized("Celu", "alpha", 0.5, 1.5), since=12, keeps=True),
    Spec(("Sqrt", "Abs", "Add"), number, _after_abs("Sqrt"), keeps=True),
    Spec(("Log", "Abs", "Add"), number, _after_abs("Log"), keeps=True),
    Spec(("Reciprocal", "Abs", "Add"), number, _after_abs("Reciprocal"), keeps=True),
    Spec(("Clip",), number, _clip, since=11, keeps=True),
    # ONNX Runtime 1.32 fails to load Relu, Clip of doubles: its fusion of the two knows no doubles
    Spec(("Clip",), number, _clip, since=12, keeps=True, floats=("float32", "float16")),
    Spec(("Exp", "Clip"), number, _exp, since=11, keeps=True),
    Spec(("Pow",), lambda k: k.is_float and 2 * k.degree <= _MOST_DEGREE, _power, keeps=True),
    Spec(("PRelu",), lambda k: k.is_float and k.rank > 0, _prelu, keeps=True),
    Spec(("Cast", "Neg"), number, _cast, keeps=True, floats=ALL),
    Spec(("Where",), number, _where, since=9, keeps=True),
    Spec(("Add",), number, _with_constant("Add"), keeps=True, floats=ALL),
    Spec(("Mul",), number, _with_constant("Mul"), keeps=True, floats=ALL),
    Spec(("Sub",), number, _with_constant("Sub"), keeps=True, floats=ALL),
    Spec(("Div",), number, _with_constant("Div", True), keeps=True, floats=ALL),
    Spec(("Max",), number, _with_constant("Max"), since=12, keeps=True),
    Spec(("Min",), number, _with_constant("Min"), since=12, keeps=True),
    Spec(("Add",), _small, _with_another("Add"), keeps=True, floats=ALL),
    Spec(("Mul",), lambda k: k.is_float and k.degree <= 1, _with_another("Mul"), keeps=True),
    Spec(("Sub",), _small, _with_another("Sub"), keeps=True, floats=ALL),
    Spec(("Sum",), _small, _several("Sum"), keeps=True),
    Spec(("Mean",), _small, _several("Mean"), keeps=True),
)
