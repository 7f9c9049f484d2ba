"""Effective: one operator's weight, and what readings of it share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


@dataclass(frozen=True, eq=False)
class Effective:
    """One operator's weight.

    `node`, `slot`: who reads it, or its codes. `end`: the value that stands for what the plain
    operator would give. `decode(None)` gives the numbers as that operator would read them, columns
    x rows for products, and None where that cannot be told; `decode(a)` those for other codes.
    `codes`: the stored tensor of them. `scales`: what one step of the codes is worth, element by
    element; None where codes have no steps.
    """

    node: Node
    slot: int
    end: Value
    decode: Callable[[Array | None], Array | None]
    codes: Value | None
    scales: Callable[[], Array | None]

    @property
    def name(self) -> str:
        """What the node is called."""
        return self.node.name

    @property
    def picks(self) -> bool:
        """Whether rows are picked, not multiplied."""
        return self.node.op in ("Gather", "com.microsoft.GatherBlockQuantized")

    def numbers(self) -> Array | None:
        """The weight as the plain operator would read it."""
        return self.decode(None)

    def steps(self) -> Array | None:
        """What one step of the codes is worth; None where they have none."""
        return self.scales()


def linear_steps(
    model: Model, codes: Value | None, decode: Callable[[Array | None], Array | None]
) -> Callable[[], Array | None]:
    """Of codes that are decoded linearly: what ones are decoded to, less what zeros are.

    `codes`: stored, or computed from what is; None where there are none.
    """

    def steps() -> Array | None:
        array = Folded(model).array(codes)
        if array is None or "int" not in array.dtype.name:
            return None
        low, high = decode(np.zeros_like(array)), decode(np.ones_like(array))
        return None if low is None or high is None else np.abs(high - low)

    return steps


def followed(value: Value, ops: tuple[str, ...], folded: Folded) -> Value:
    """The last value of a chain of such nodes, each the sole reader, with all else known."""
    while not value.exits and len(value.uses) == 1:
        ((node, _),) = value.uses
        if node.op not in ops or node.graph is not value.graph:
            break
        if not all(folded.is_constant(v) for v in node.inputs if v is not None and v is not value):
            break
        value = node.output
    return value
