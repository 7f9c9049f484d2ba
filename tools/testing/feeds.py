"""feeds(): inputs that a model takes, ordinary and extreme ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.graph.elements import np_dtype
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.model import Model
from onnx_compress.passes.samples import index_bound

Feed = Mapping[str, "np.ndarray[Any, Any]"]
KINDS = ("normal", "zeros", "denormals", "large", "mixed")
_LARGE = 1e4
_SIZES = (1, 3)  # of open dimensions


@st.composite
def feeds(draw: DrawFn, model: ModelProto, kinds: tuple[str, ...] = KINDS) -> Feed:
    """Arrays for all inputs: of one kind of numbers, with open dimensions of 1 or 3.

    Kinds: normal; zeros; denormals, the smallest numbers there are; large, about 1e4; mixed, each
    number of another kind. Indices keep within the table that they pick from.
    """
    kind = kinds[draw(st.integers(0, len(kinds) - 1))]
    size = _SIZES[draw(st.integers(0, len(_SIZES) - 1))]
    return feed_of(from_proto(model), kind, size, draw(st.integers(0, 2**16)))


def feed_of(model: Model, kind: str = "normal", size: int = 1, seed: int = 0) -> Feed:
    """One feed, without Hypothesis. `size`: of every open dimension."""
    rng = np.random.default_rng(seed)
    found = {}
    for value in model.inputs():
        known = declared(value.info)
        if known is None or known.shape is None:
            raise ValueError(f"the input {value.name} has no type or no number of axes")
        shape = tuple(dim if isinstance(dim, int) else size for dim in known.shape)
        bound = index_bound(model, value)
        found[value.name] = _array(np_dtype(known.element), shape, kind, bound, rng)
    return found


def _array(
    dtype: Any, shape: tuple[int, ...], kind: str, bound: int | None, rng: np.random.Generator
) -> Any:
    if dtype == np.bool_:
        return rng.random(shape) < 0.5 if shape else np.array(rng.random() < 0.5)
    if dtype.kind in "iu":
        most = bound if bound is not None else 2
        return np.asarray(rng.integers(0, max(most, 1), shape)).astype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"inputs of {dtype} are not drawn")
    return np.asarray(_floats(dtype, shape, kind, rng)).astype(dtype)


def _floats(dtype: Any, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> Any:
    normal = rng.standard_normal(shape)
    # half precision overflows early
    large = normal * (_LARGE if dtype.itemsize > 2 else 100.0)
    tiny = normal * float(np.finfo(dtype).smallest_subnormal) * 100
    table = {"normal": normal, "zeros": normal * 0, "denormals": tiny, "large": large}
    if kind != "mixed":
        return table[kind]
    return np.choose(rng.integers(0, 4, shape), list(table.values()))
