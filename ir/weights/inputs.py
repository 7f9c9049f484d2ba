"""What a weight is multiplied by: the other operand of each Use, as rows of numbers.

    y = W x        W: [groups, rows, columns] as Use.matrix, x: [groups, n, columns]

Convolutions are unrolled window by window, so the products of x with the matrix are what the
operator computes. Of LSTM, GRU and RNN the recurrent weight sees the states of the step before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights.unrolled import convolution_windows, transposed_windows
from onnx_compress.ir.weights.weight import Use

Arrays = Sequence[Any]
Rows = Iterator[Array]


@dataclass(frozen=True)
class Source:
    """Input slots, then outputs, to look at, and how rows are made of what is seen there.

    `rows(use, arrays, limit)`: None in `arrays` for what a node leaves out; `limit`: how many
    windows of a sample are enough.
    """

    rows: Callable[[Use, Arrays, int | None], Rows]
    slots: tuple[int, ...]
    made: tuple[int, ...] = ()


def source(use: Use) -> Source | None:
    """Where the rows of a use come from; None where it multiplies nothing (Gather)."""
    return SOURCES.get((use.node.op, use.slot))


def _right(use: Use, arrays: Arrays, _: int | None) -> Rows:
    """x W, x: [..., n, K]."""
    return _batched(use, np.atleast_2d(arrays[0]))


def _left(use: Use, arrays: Arrays, _: int | None) -> Rows:
    """W x, x: [..., K, n]."""
    x = arrays[0]
    return _batched(use, np.swapaxes(x, -1, -2) if x.ndim > 1 else x[None])


def _batched(use: Use, x: Array) -> Rows:
    """Groups are positions along the leading axes of the weight."""
    groups, columns = use.layout.groups, use.layout.columns
    if groups == 1:
        yield x.reshape(1, -1, columns)
        return
    batch = use.layout.shape[:-2]
    shape = np.broadcast_shapes(x.shape[:-2], batch)
    x = np.broadcast_to(x, (*shape, *x.shape[-2:]))
    lead = len(shape) - len(batch)
    own = [lead + at for at, size in enumerate(batch) if size > 1]
    rest = [at for at in range(len(shape)) if at not in own]
    turned = x.transpose(*rest, *own, x.ndim - 2, x.ndim - 1)
    yield from turned.reshape(-1, groups, *x.shape[-2:])


def _gemm_b(use: Use, arrays: Arrays, _: int | None) -> Rows:
    x = arrays[0].T if use.node.attribute("transA", 0) else arrays[0]
    yield x[None]


def _gemm_a(use: Use, arrays: Arrays, _: int | None) -> Rows:
    x = arrays[0] if use.node.attribute("transB", 0) else arrays[0].T
    yield x[None]


def _conv(use: Use, arrays: Arrays, limit: int | None) -> Rows:
    layout = use.layout
    return convolution_windows(use.node, arrays[0], layout.shape[2:], layout.groups, limit)


def _conv_transpose(use: Use, arrays: Arrays, limit: int | None) -> Rows:
    layout = use.layout
    return transposed_windows(use.node, arrays[0], layout.shape[2:], layout.groups, limit)


def _steps(use: Use, x: Any, lengths: Any) -> Array:
    """[T, B] of which steps of which sequence are there; x: [T, B, ...]."""
    steps, batch = x.shape[:2]
    known = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    return np.asarray(np.arange(steps)[:, None] < known[None])


def _sequence(use: Use, arrays: Arrays, _: int | None) -> Rows:
    """W of LSTM, GRU, RNN: the inputs, the same ones for each direction."""
    x, lengths = arrays
    x = np.swapaxes(x, 0, 1) if use.node.attribute("layout", 0) else x
    kept = x[_steps(use, x, lengths)]
    yield np.broadcast_to(kept, (use.layout.groups, *kept.shape))


def _states(use: Use, arrays: Arrays, _: int | None) -> Rows:
    """R of LSTM, GRU, RNN: the state before each step."""
    lengths, initial, y = arrays
    if use.node.attribute("layout", 0):  # [B, T, D, H], [B, D, H]
        y = y.transpose(1, 2, 0, 3)
        initial = None if initial is None else np.swapaxes(initial, 0, 1)
    first = np.zeros(y.shape[1:], y.dtype) if initial is None else initial
    here = _steps(use, y.swapaxes(1, 2), lengths)
    last = here & ~np.roll(here, -1, 0)
    last[-1] |= here[-1]
    found = []
    for direction in range(y.shape[1]):
        own = y[:, direction]
        if direction or use.node.attribute("direction", "forward") == "reverse":
            before = np.concatenate([own[1:], own[:1]])
            before = np.where(last[..., None], first[direction], before)
        else:
            before = np.concatenate([first[direction][None], own[:-1]])
        found.append(before[here])
    yield np.stack(found)


_W = Source(_sequence, (0, 4))
_R = Source(_states, (4, 5), (0,))
_CONV = Source(_conv, (0,))
SOURCES: dict[tuple[str, int], Source] = {
    ("Conv", 1): _CONV,
    ("com.microsoft.FusedConv", 1): _CONV,
    ("ConvTranspose", 1): Source(_conv_transpose, (0,)),
    ("Gemm", 0): Source(_gemm_a, (1,)),
    ("Gemm", 1): Source(_gemm_b, (0,)),
    ("MatMul", 0): Source(_left, (1,)),
    ("MatMul", 1): Source(_right, (0,)),
    ("com.microsoft.Attention", 1): Source(_right, (0,)),
    **{(op, 1): _W for op in ("LSTM", "GRU", "RNN")},
    **{(op, 2): _R for op in ("LSTM", "GRU", "RNN")},
}
