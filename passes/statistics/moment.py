"""Moment: H = E[x xT] of what a weight is multiplied by, and E[x].

For a convolution x are the windows, for LSTM the inputs and the states, for each group or direction
a matrix of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights.inputs import source
from onnx_compress.ir.weights.weight import Use
from onnx_compress.passes.solvers.loss import damped, shrunk
from onnx_compress.passes.statistics.gram import Gram, GroupedGram, side, unpacked
from onnx_compress.passes.statistics.request import Look

TRUST = 0.95  # in correlations: inputs to come differ a little from those seen


@dataclass(frozen=True)
class Moments:
    """What was found. `mean`: [groups, columns], float64; `rows`: how many x were seen.

    H lies packed in `stored`: [groups, k, k] of many groups, else one block or more along the
    diagonal of the one group.
    """

    mean: Array
    rows: int
    stored: tuple[Array, ...]

    @property
    def groups(self) -> int:
        """Of the weight."""
        return int(self.mean.shape[0])

    @property
    def columns(self) -> int:
        """Of the weight."""
        return int(self.mean.shape[1])

    def blocks(self, group: int = 0) -> list[Array]:
        """H of one group: one matrix [K, K], float64, or some along its diagonal if K is large."""
        if self.groups > 1:
            return [self.stored[0][group].astype(np.float64)]
        return [unpacked(packed) for packed in self.stored]

    def matrix(self, group: int = 0) -> Array:
        """H of one group, [K, K], float64, with zeros outside of its blocks."""
        from scipy.linalg import block_diag

        blocks = self.blocks(group)
        return blocks[0] if len(blocks) == 1 else np.asarray(block_diag(*blocks))

    def parts(self) -> Iterator[tuple[slice, "Moments"]]:
        """Columns of which nothing is known together, each with their own; mostly all in one."""
        if len(self.stored) == 1:
            yield slice(0, self.columns), self
            return
        start = 0
        for packed in self.stored:
            place = slice(start, start + side(packed))
            yield place, Moments(self.mean[:, place], self.rows, (packed,))
            start = place.stop

    def diagonal(self, group: int = 0) -> Array:
        """E[x_k^2], [K]."""
        return np.concatenate([np.diagonal(block) for block in self.blocks(group)])

    @property
    def reliable(self) -> bool:
        """Whether there were more rows than columns, without which H has no full rank."""
        return self.rows > self.columns

    def damped(self, share: float = 0.01) -> Array:
        """H of all groups, [groups, K, K], fit to be inverted: 1 % of the mean diagonal is added.

        Correlations about the mean are believed by `TRUST`; with fewer rows than columns, by that
        times rows / columns: what the data do not tell is taken for uncorrelated. Means, which few
        rows tell, are believed.
        """
        told = min(self.rows / max(self.columns, 1), 1.0)
        means = self.mean[:, :, None] * self.mean[:, None, :]
        h = self.stored[0].astype(np.float64) if self.groups > 1 else self.matrix()[None]
        return damped(shrunk(h - means, TRUST * told) + means, share)

    @property
    def note(self) -> str:
        """What the report is to say; "" if all is well."""
        notes = []
        if not self.reliable:
            text = f"{self.rows} rows of data for {self.columns} columns: more are needed"
            notes.append(f"{text}; correlations are trusted by their share")
        if len(self.stored) > 1:
            notes.append(f"correlations within {len(self.stored)} blocks of columns alone")
        return "; ".join(notes)


@dataclass(frozen=True)
class Moment:
    """Asks for Moments of a use. Raises UnsupportedError where it multiplies nothing."""

    use: Use

    def key(self) -> Any:
        """Products that read the same value along its last axis share it."""
        return (type(self), *shared(self.use))

    def start(self, look: Look) -> "_Moments":
        """At zero."""
        return _Moments(self.use, look, products=True)


@dataclass(frozen=True)
class Mean:
    """Asks for E[x] of a use, [groups, columns]."""

    use: Use

    def key(self) -> Any:
        """As that of Moment."""
        return (type(self), *shared(self.use))

    def start(self, look: Look) -> "_Moments":
        """At zero."""
        return _Moments(self.use, look, products=False)


def shared(use: Use) -> tuple[Any, ...]:
    """What tells the rows of two uses apart."""
    layout, node = use.layout, use.node
    last = (node.op, use.slot) in (("MatMul", 1), ("Gemm", 1), ("com.microsoft.Attention", 1))
    if last and layout.groups == 1 and not node.attribute("transA", 0):
        return ("last axis", node.input(0), layout.columns)
    return (node, use.slot)


def taps(use: Use) -> list[Tap]:
    """Where the rows of a use are to be seen. Raises UnsupportedError."""
    found = source(use)
    if found is None:
        raise UnsupportedError(f"{use.node.op} multiplies nothing by it", where=use.node.name)
    made = [Tap(use.node, slot, True) for slot in found.made]
    return [*(Tap(use.node, slot) for slot in found.slots), *made]


def rows(use: Use, seen: Mapping[Tap, Any], kept: Array | None, limit: int | None) -> Any:
    """Pieces [groups, n, columns] of the rows of one run, as float32 or as they are."""
    found = source(use)
    arrays = [seen.get(tap) for tap in taps(use)]
    if found is None or not isinstance(arrays[0] if found.slots[0] == 0 else 0, np.ndarray | int):
        return
    x = arrays[0]
    if kept is not None and shared(use)[0] == "last axis" and isinstance(x, np.ndarray):
        if x.shape[:2] == kept.shape and x.ndim > 2:
            arrays[0] = x[kept]
        elif x.ndim == 2 and len(x) == kept.size:
            arrays[0] = x[kept.reshape(-1)]
    yield from found.rows(use, arrays, limit)


class _Moments:
    def __init__(self, use: Use, look: Look, products: bool) -> None:
        self.use, self.taps, self.products = use, taps(use), products
        groups, columns = use.layout.groups, use.layout.columns
        self._limit = look.limit(columns)
        self._one = Gram(columns, look.widest) if products and groups == 1 else None
        self._many = GroupedGram(groups, columns) if products and groups > 1 else None
        self._total, self._rows = np.zeros((groups, columns)), 0
        self.nbytes = sum(gram.nbytes for gram in (self._one, self._many) if gram is not None)

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        for part in rows(self.use, seen, kept, self._limit):
            if self._one is not None:
                self._one.add(part[0])
            elif self._many is not None:
                self._many.add(part)
            else:
                self._total += part.sum(1, dtype=np.float64)
                self._rows += part.shape[1]

    def result(self) -> Any:
        if self._one is not None:
            stored = tuple(self._one.packed())
            total, rows = self._one.total[None], self._one.rows
        elif self._many is not None:
            stored, total, rows = (self._many.mean(),), self._many.total, self._many.rows
        else:
            return _finite(self._total / max(self._rows, 1), self.use)
        return Moments(_finite(total / max(rows, 1), self.use), rows, stored)


def _finite(mean: Array, use: Use) -> Array:
    if not np.isfinite(mean).all():
        hint = "leave out the samples that make NaN or infinity of it"
        raise CalibrationError("what it is multiplied by is not finite", hint, use.node.name)
    return mean
