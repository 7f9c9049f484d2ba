"""Inputs drawn where the user gives none: from shapes, types and use.

Indices keep within the table they pick from, numbers that the model compares with a constant are
that constant (a sampling rate, say), other integers and masks are one, images of bytes are any
bytes, pictures of floats are patches of all sizes, other floats are normal. Open dimensions are
tried until the model runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, InvalidError, TooLongError
from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.graph.elements import dims
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Feed, Port, Runner
from onnx_compress.ir.weights.path import trace

# sizes for the open dimensions after the first, by how many there are in an input
_SIZES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((16,), (64,), (512,), (128,), (32,), (8,), (1,), (256,), (1024,), (16000,)),
    2: ((64, 64), (224, 224), (48, 192), (32, 128), (320, 320), (16, 16), (640, 640), (1, 16)),
    3: ((3, 64, 64), (3, 224, 224), (1, 64, 64), (16, 16, 16), (1, 1, 16)),
}
_PASSED_ON = (
    "Identity Cast Reshape Squeeze Unsqueeze Flatten Transpose Slice Concat Expand Split Clip "
    "Add Max Min Where Tile".split()
)


def draw(model: Model, session: Runner, count: int, seed: int) -> list[Feed]:
    """`count` inputs that the model accepts. Raises CalibrationError if none are found."""
    uses = {value.name: _use(model, value) for value in model.inputs()}
    last = "its inputs are not tensors of numbers"
    full: MemoryError | None = None
    for sizes in _choices(session.inputs):
        rng = np.random.default_rng(seed)
        feeds = []
        for _ in range(count):
            feed = {}
            for port in session.inputs:
                array = _array(port, sizes[port.name], uses.get(port.name, _Use()), rng)
                if array is not None:
                    feed[port.name] = array
            feeds.append(feed)
        if len(feeds[0]) < len(session.inputs):
            break
        try:
            session.run(feeds[0])
        except TooLongError:
            raise
        except MemoryError as error:
            full = error
            continue
        except InvalidError as error:
            last = error.message
            continue
        return list(feeds)
    if full is not None:
        raise full
    hint = "give real inputs with --calib FILE.npz"
    raise CalibrationError(f"no inputs could be drawn that the model accepts: {last}", hint)


def _choices(ports: list[Port]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes for all inputs; dimensions of one name are equal everywhere.

    Inputs that have a fixed dimension beside open ones may be states: their open ones are tried
    as one, like a batch, too.
    """
    widest = max((len(_open(port)) for port in ports), default=0)
    attempts = len(_SIZES[min(max(widest, 1), 3)]) if widest else 1
    for states in (False, True):
        for attempt in range(attempts):
            named: dict[str, int] = {}
            shapes = {port.name: _shape(port, attempt, states, named) for port in ports}
            yield {port.name: _summed(port, shapes[port.name], named) for port in ports}
        if not any(_is_state(port) for port in ports) or len(ports) == 1:
            return


def _shape(port: Port, attempt: int, states: bool, named: dict[str, int]) -> tuple[int, ...]:
    table = _SIZES[min(max(len(_open(port)), 1), 3)]
    sizes = list(table[min(attempt, len(table) - 1)])
    shape: list[int] = []
    for axis, dim in enumerate(port.shape):
        if isinstance(dim, int):
            shape.append(dim)
            continue
        batch = axis == 0 or (states and _is_state(port))
        size = 1 if batch else (sizes.pop(0) if sizes else 16)
        if isinstance(dim, str) and dim and dim != "?":
            size = named.setdefault(dim, size)
        shape.append(size)
    return tuple(shape)


def _summed(port: Port, shape: tuple[int, ...], named: dict[str, int]) -> tuple[int, ...]:
    """Dimensions called "past + 1" are the sum of what they are called by."""
    sizes = list(shape)
    for axis, dim in enumerate(port.shape):
        terms = [term.strip() for term in dim.split("+")] if isinstance(dim, str) else []
        if len(terms) > 1 and all(term.isdigit() or term in named for term in terms):
            sizes[axis] = sum(int(term) if term.isdigit() else named[term] for term in terms)
    return tuple(sizes)


def _is_state(port: Port) -> bool:
    return bool(_open(port)) and any(isinstance(dim, int) and dim > 1 for dim in port.shape)


def _open(port: Port) -> list[int]:
    return [axis for axis, dim in enumerate(port.shape) if axis and not isinstance(dim, int)]


@dataclass(frozen=True)
class _Use:
    """What a model does with an integer input: rows of the smallest table, constants it meets."""

    bound: int | None = None
    compared: int | None = None


def _array(port: Port, shape: tuple[int, ...], use: _Use, rng: np.random.Generator) -> Any:
    if port.dtype is None or port.dtype == object:
        return None
    if np.issubdtype(port.dtype, np.floating):
        image = len(shape) == 4 and min(shape) > 0
        drawn = _picture(shape, rng) if image else rng.standard_normal(shape)
        return drawn.astype(port.dtype)
    if port.dtype == np.bool_:
        return np.ones(shape, bool)
    if use.bound is not None:
        return rng.integers(0, max(use.bound, 1), shape).astype(port.dtype)
    if port.dtype == np.uint8:
        return rng.integers(0, 256, shape).astype(np.uint8)
    return np.full(shape, 1 if use.compared is None else use.compared, port.dtype)


def index_bound(model: Model, value: Value) -> int | None:
    """Rows of the smallest table that an integer input picks from; None where it picks none."""
    return _use(model, value).bound


def _picture(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Patches of all sizes, mean 0 and variance 1: like a photograph, where neighbours are alike.

    Networks for images answer to white noise with values near zero, of which nothing can be told.
    """
    axes = (1, 2) if shape[3] <= 4 < shape[1] else (2, 3)
    total = 0.3 * rng.standard_normal(shape)
    step = 2
    while step <= max(shape[axis] for axis in axes):
        coarse = [-(-size // step) if axis in axes else size for axis, size in enumerate(shape)]
        patches = rng.standard_normal(coarse)
        for axis in axes:
            patches = patches.repeat(step, axis).take(range(shape[axis]), axis)
        total += patches
        step *= 2
    spread = total.std()
    return (total - total.mean()) / (spread if spread else 1.0)


def _use(model: Model, value: Value) -> _Use:
    """Follow an input on any way that keeps its numbers."""
    seen: set[Value] = set()
    todo, bounds, compared = [value], [], []
    while todo and len(seen) < 200:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        for node, slot in at.uses:
            if node.op == "Gather" and slot == 1:
                shape = _table(model, node.input(0))
                if shape:
                    bounds.append(shape[node.attribute("axis", 0)])
            elif node.op == "OneHot" and slot == 0:
                depth = model.constant(node.input(1))
                if depth is not None:
                    bounds.append(int(depth.reshape(-1)[0]))
            elif node.op == "Equal":
                other = model.constant(node.input(1 - slot))
                if other is not None and other.size:
                    compared.append(int(other.reshape(-1)[0]))
            elif node.op in _PASSED_ON:
                todo += [output for output in node.outputs if output is not None]
    return _Use(min(bounds, default=None), next(iter(compared), None))


def _table(model: Model, value: Value | None) -> tuple[int, ...]:
    """The shape of a stored table, also behind Identity, Cast and their like; () if unknown."""
    tensor = model.tensor(value)
    if tensor is not None or value is None:
        return dims(tensor) if tensor is not None else ()
    path = trace(model, value)
    return () if isinstance(path, No) else path.shape
