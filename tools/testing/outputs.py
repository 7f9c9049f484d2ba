"""Outputs compared, with a yardstick: what small random changes of the weights do to them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph import clone
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights
from onnx_compress.testing.feeds import Feed

_FACTOR = 8.0  # times what the random changes do
_FLOOR = 4.0  # times the resolution of the type, relative to the largest number
_SHAKEN, _USUAL = 8, 2  # models: all, and as many as tell what is usual
_FLOATS: dict[int, Any] = {
    TensorProto.FLOAT16: np.float16,
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
}
_SHAPED = ("Resize", "Upsample")  # whose floats decide about shapes


class Yardstick:
    """What random changes of the weights of a model, each by about `size`, do to its outputs.

    Run when asked for: equal outputs need none, and most need few.
    """

    def __init__(self, model: Model, size: float, optimize: bool = False) -> None:
        self._model, self._size, self._optimize = model, size, optimize
        self._sessions: dict[tuple[int, float], Session] = {}
        self._outputs: dict[tuple[int, int, float], list[Any]] = {}

    def __call__(self, feed: Feed, at: int) -> Iterator[Any]:
        """One output of each of the changed models. Feeds are told apart as objects.

        Of integers, of models changed by as much as errors of floats may be: what is nearly even
        goes either way.
        """
        for number in range(_SHAKEN):
            found = self._run(feed, number, self._size)[at]
            if np.asarray(found).dtype.kind != "f":
                found = self._run(feed, number, self._size * _FACTOR)[at]
            yield found

    def _run(self, feed: Feed, number: int, size: float) -> list[Any]:
        if (number, size) not in self._sessions:
            session = Session(perturbed(self._model, size, number), optimize=self._optimize)
            self._sessions[number, size] = session
        key = id(feed), number, size
        if key not in self._outputs:
            self._outputs[key] = self._sessions[number, size].call(feed)
        return self._outputs[key]

    def level(self, feed: Feed, at: int) -> float:
        """Root mean square of what the changes do to one output for a feed.

        Where they do nothing to it, as behind a Relu that is shut, to any output; where to none,
        the size of the changes itself.
        """
        outputs = Session(self._model, optimize=self._optimize).call(feed)

        def of(place: int) -> float:
            one = outputs[place]
            size = max(float(np.size(one)) ** 0.5, 1.0)
            found = islice(self(feed, place), _USUAL)
            return max((_norm(_difference(one, other)) / size for other in found), default=0.0)

        return of(at) or max(map(of, range(len(outputs)))) or self._size


def perturbed(model: Model, size: float, seed: int) -> Model:
    """The model with its stored floats changed at random, each by about `size` of itself.

    Of an even seed single numbers change, of an odd one whole tensors do.
    """
    rng = np.random.default_rng(seed)
    trial = clone(model)
    weights = {weight.value for weight in find_weights(trial)}
    resizing = {
        f"{function.proto.domain}.{function.proto.name}"
        for function in trial.functions
        if any(node.op in _SHAPED for graph in function.walk() for node in graph.nodes)
    }
    for graph in trial.graphs():
        for value, _ in list(trial.stored(graph)):
            array = trial.constant(value)
            if array is None or array.dtype.kind != "f" or not array.size:
                continue
            if array.size == 1 and value not in weights:
                continue  # exponents, bounds of Clip, and their like
            readers = value.consumers
            if any(node.op in resizing or node.op in _SHAPED for node in readers):
                continue
            noise = rng.standard_normal(array.shape if seed % 2 == 0 else ())
            shaken = array * np.exp(size * noise)  # signs stay: variances are positive
            if (array < 0).any():
                shaken = shaken + size * 0.1 * np.abs(array).max() * rng.standard_normal()
            trial.set_constant(value, np.asarray(shaken).astype(array.dtype))
    return trial


def resolution(model: ModelProto) -> float:
    """Relative rounding of the coarsest float that a model takes or stores."""
    found = {info.type.tensor_type.elem_type for info in model.graph.input}
    found |= {tensor.data_type for tensor in model.graph.initializer}
    return max((float(np.finfo(_FLOATS[kind]).eps) for kind in found & set(_FLOATS)), default=0.0)


def compare(
    one: Any,
    other: Any,
    shaken: Callable[[], Iterable[Any]],
    coarse: float = 0.0,
    level: Callable[[], float] = float,
    apart: float = 0.0,
) -> str:
    """What is wrong with `other` where `one` is right; "" if nothing is.

    `shaken`: gives what random changes of the weights make of `one`. `coarse`: the resolution of
    the model, where it may be worse than that of the output: what was half precision and is cast to
    double is no better than half precision. `level`: gives the error of a number that is allowed
    whatever the input: a bias that was fitted to other inputs stays where these are zero. `apart`:
    relative error allowed of what hangs on no weight: it may be rounded as an activation.
    """
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{other.dtype} {list(other.shape)} where {one.dtype} {list(one.shape)} was"
    if one.tobytes() == other.tobytes():
        return ""
    if one.dtype.kind != "f":
        if level is not float:  # where all is zero, a bias decides which is the largest
            return ""
        unsteady = any(not np.array_equal(one, found) for found in shaken())
        return "" if unsteady or np.array_equal(one, other) else "integers differ"
    known = np.isfinite(one)
    if not np.array_equal(np.isfinite(other), known):
        steady = all(np.array_equal(np.isfinite(found), known) for found in shaken())
        return "NaN or infinity where there was none, or the other way round" if steady else ""
    r, y = (np.where(known, found, 0).astype(np.float64) for found in (one, other))
    error = _norm(y - r)
    eps = max(float(np.finfo(one.dtype).eps), coarse)
    floor = _FLOOR * eps * np.abs(r).max(initial=0) * r.size**0.5
    if error <= floor:
        return ""
    noise = 0.0
    for found in shaken():  # until one does as much: few are needed, but where outputs saturate
        noise = max(noise, _norm(np.where(known, found, 0) - r))
        if error <= _FACTOR * noise + floor:
            return ""
    noise = noise or apart * _norm(r)
    if error > _FACTOR * noise + floor:
        noise = max(noise, level() * r.size**0.5)
    if error <= _FACTOR * noise + floor:
        return ""
    return f"the error is {error:.3g}, allowed are {_FACTOR * noise + floor:.3g} of {_norm(r):.3g}"


def _difference(one: Any, other: Any) -> Any:
    if np.asarray(one).dtype.kind != "f" or np.shape(one) != np.shape(other):
        return 0.0
    with np.errstate(all="ignore"):
        return np.asarray(other, np.float64) - np.asarray(one, np.float64)


def _norm(found: Any) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(np.nan_to_num(np.asarray(found, np.float64))))
