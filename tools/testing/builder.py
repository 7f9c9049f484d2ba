"""Builder: a graph that grows node by node, forward, with the type of every value known.

Nothing is ever rejected: what is drawn is drawn from what fits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

if TYPE_CHECKING:
    from onnx_compress.testing.spec import Spec

T = TypeVar("T")
SIZES = (1, 2, 3, 4, 6, 8, 16, 24, 32, 48, 64)  # of channels and features; small ones shrink best
RANKS = (2, 3, 4, 1, 5, 3, 4)  # of inputs; sequences and pictures are usual
LARGEST = 20_000  # elements of a value that is read
HEAVIEST = 65_536  # elements of a weight, or of what it makes, where there is a choice
_BACK = 15  # values from which one is drawn
OPEN = "N"  # the name of an open first dimension


@dataclass(frozen=True)
class Known:
    """A value that exists. `shape` is that of a run; with `open`, its first axis may be any size.

    `degree` bounds its growth: about the power of the inputs that its numbers are of.
    """

    name: str
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    open: bool = False
    degree: int = 1

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of a run."""
        return math.prod(self.shape)

    @cached_property
    def kind(self) -> str:
        """Name of its type."""
        return self.dtype.name

    @property
    def is_float(self) -> bool:
        """Whether it is of a floating type."""
        return self.dtype.kind == "f"

    def info(self) -> ValueInfoProto:
        """As an input or an output."""
        dims: list[Any] = list(self.shape)
        if self.open:
            dims[0] = OPEN
        return helper.make_tensor_value_info(
            self.name, helper.np_dtype_to_tensor_dtype(self.dtype), dims
        )


@dataclass
class Scope:
    """What belongs to one graph: the main one, or a body."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    pool: list[Known] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


class Builder:
    """Draws, and adds what was drawn.

    `rows`: all that may be added. `scope`: the graph that nodes go to. `depth`: in how many bodies
    that is.
    """

    def __init__(self, draw: DrawFn, opset: int, seed: int, rows: Sequence["Spec"]) -> None:
        self._draw, self.opset, self.rows = draw, opset, rows
        self.rng = np.random.default_rng(seed)
        self.scope = Scope()
        self.depth = 0
        self.inputs: list[Known] = []
        self.domains: set[str] = set()
        self._count = 0

    # ------------------------------------------------------------------------------- drawing

    def draw(self, strategy: SearchStrategy[T]) -> T:
        """One draw of Hypothesis's."""
        return self._draw(strategy)

    def integer(self, low: int, high: int) -> int:
        """A whole number; shrinks to `low`."""
        return low if low >= high else self._draw(st.integers(low, high))

    def flag(self) -> bool:
        """Shrinks to False."""
        return bool(self._draw(st.integers(0, 1)))

    def one_of(self, items: Sequence[T]) -> T:
        """Shrinks to the first."""
        return items[self.integer(0, len(items) - 1)]

    def fitting(self, items: Sequence[T], fits: Callable[[T], bool]) -> T:
        """The one drawn, or the next that fits; so one number means the same in most models,
        which shrinking needs.
        """
        at = self.integer(0, len(items) - 1)
        return next(item for item in (*items[at:], *items) if fits(item))

    def takes(self, known: Known, row: "Spec") -> bool:
        """Whether a row may read a value here."""
        return row.allowed(self.opset) and row.takes(known)

    def width(self, *each: int, sizes: Sequence[int] = SIZES) -> int:
        """How many channels or features, of which one takes `each` numbers of something."""
        most = HEAVIEST // max(*each, 1, 1)
        return self.one_of([size for size in sizes if size <= most] or sizes[:1])

    # ------------------------------------------------------------------------------- building

    def name(self, stem: str) -> str:
        """A new name."""
        self._count += 1
        return f"{stem}{self._count}"

    def find(self, fits: Callable[[Known], bool]) -> list[Known]:
        """Values that fit, the newest first."""
        return [known for known in reversed(self.scope.pool) if fits(known)]

    def input(self, dtype: Any, shape: tuple[int, ...], open: bool = False) -> Known:
        """One more input of the model."""
        known = Known(self.name("x"), np.dtype(dtype), shape, open)
        self.inputs.append(known)
        return known

    def start(self, dtype: str, dynamic: bool) -> Known:
        """The first input: of a shape that some row takes."""

        def fits(known: Known) -> bool:
            return known.size <= LARGEST and any(self.takes(known, row) for row in self.rows)

        kind = np.dtype(dtype)
        ways = [
            known
            for open in (False, True)[: 1 + dynamic]
            for rank in RANKS
            for known in (Known("", kind, (4,) * rank, open), Known("", kind, (1,) * rank, open))
            if fits(known)
        ]
        usual = [known for known in ways if known.shape[0] > 1] or ways
        plain = self.one_of(usual)
        shape = (self.integer(1, 3), self.width(), *(self.integer(1, 8) for _ in range(3)))
        known = replace(plain, shape=shape[: plain.rank])
        found = self.input(kind, (known if fits(known) else plain).shape, plain.open)
        self.scope.pool.append(found)
        return found

    def recent(self) -> list[Known]:
        """Floats of a bounded size, the newest first, one of them drawn to the front.

        The newer ones are drawn more often.
        """
        found = self.find(lambda known: known.is_float and 0 < known.size <= LARGEST)
        at = self.integer(0, _BACK) ** 2 // _BACK % len(found)
        return [found[at], *found[:at], *found[at + 1 :]]

    def ids(self, rows: int, open: bool) -> Known:
        """An input of indices below `rows`."""
        return self.input(np.int64, (self.integer(1, 3), self.integer(1, 4)), open)

    def condition(self) -> Known:
        """A boolean input, the same for all that ask."""
        for known in self.inputs:
            if known.dtype == np.bool_:
                return known
        return self.input(np.bool_, ())

    def constant(self, array: Any, stem: str = "c") -> str:
        """A stored tensor, by name."""
        tensor = numpy_helper.from_array(np.asarray(array), self.name(stem))
        self.scope.initializers.append(tensor)
        return tensor.name

    def integers(self, *numbers: int) -> str:
        """A stored list of int64."""
        return self.constant(np.array(numbers, np.int64))

    def weight(self, shape: tuple[int, ...], dtype: Any, fan: int = 0, around: float = 0.0) -> str:
        """Random numbers about `around`, of variance 1 / fan, so that products keep their size."""
        array = self.rng.standard_normal(shape) / max(fan, 1) ** 0.5
        return self.constant((array * (0.2 if around else 1.0) + around).astype(dtype), "w")

    def positive(self, shape: tuple[int, ...], dtype: Any) -> str:
        """Random numbers between 0.5 and 1.5."""
        return self.constant((0.5 + self.rng.random(shape)).astype(dtype), "w")

    def add(
        self,
        op: str,
        inputs: Sequence[str | Known],
        like: Known,
        shape: tuple[int, ...] | None = None,
        *,
        dtype: Any = None,
        open: bool | None = None,
        degree: int | None = None,
        outputs: Sequence[tuple[int, ...]] = (),
        domain: str = "",
        options: Mapping[str, Any] | None = None,
        **attributes: Any,
    ) -> Known:
        """Add a node; gives its first output, of the type and shape of `like` where none is given.

        `outputs`: shapes of all outputs, where there are several. `options`: further attributes.
        """
        names = [value if isinstance(value, str) else value.name for value in inputs]
        self.scope.used.update(names)
        shapes = list(outputs) or [like.shape if shape is None else shape]
        found = [
            Known(
                self.name("v"),
                like.dtype if dtype is None else np.dtype(dtype),
                each,
                (like.open if open is None else open) and bool(each),
                like.degree if degree is None else degree,
            )
            for each in shapes
        ]
        given = {**attributes, **(options or {})}
        made = [known.name for known in found]
        node = helper.make_node(op, names, made, self.name("n"), domain=domain, **given)
        self.scope.nodes.append(node)
        self.scope.pool += found
        if domain:
            self.domains.add(domain)
        return found[0]

    def body(
        self, make: Callable[[], Known], name: str, inputs: Sequence[Known] = ()
    ) -> GraphProto:
        """A graph of its own that may use what is outside; its output is what `make` gives.

        Its weights are its own, or captured.
        """
        outer = self.scope
        inner = self.scope = Scope(pool=[*outer.pool, *inputs])
        self.depth += 1
        result = make()
        own = inner.initializers if self.flag() else []
        self.depth -= 1
        self.scope = outer
        outer.used |= inner.used
        outer.initializers += [] if own else inner.initializers
        infos = [known.info() for known in inputs]
        return helper.make_graph(inner.nodes, name, infos, [result.info()], own)

    def attach(self, graphs: dict[str, GraphProto]) -> None:
        """Give the node that was added last bodies."""
        node = self.scope.nodes[-1]
        for key in sorted(graphs):
            node.attribute.append(
                AttributeProto(name=key, type=AttributeProto.GRAPH, g=graphs[key])
            )
