"""Consumers: the weights that sum over channels, and which of their columns a channel is.

Conv W [O, C, k, k]      channel c = columns c * k * k ... (c + 1) * k * k
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis.channels import Channels
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import Use, Weight


@dataclass(frozen=True)
class _Summed:
    """Where channels are: the weight's axis, and the input or output that is multiplied."""

    column: Callable[[Node], int]
    axis: Callable[[Node], int]
    slot: int = 0
    made: bool = False


def _transposed(name: str, plain: int, turned: int) -> Callable[[Node], int]:
    return lambda node: turned if node.attribute(name, 0) else plain


def _fixed(axis: int) -> Callable[[Node], int]:
    return lambda node: axis


_SUMMED: dict[tuple[str, int], _Summed] = {
    ("Conv", 1): _Summed(_fixed(1), _fixed(1)),
    ("ConvTranspose", 1): _Summed(_fixed(0), _fixed(1)),
    ("Gemm", 1): _Summed(_transposed("transB", 0, 1), _transposed("transA", 1, 0)),
    ("MatMul", 1): _Summed(_fixed(-2), _fixed(-1)),
    ("LSTM", 1): _Summed(_fixed(2), _fixed(2)),
    ("GRU", 1): _Summed(_fixed(2), _fixed(2)),
    ("RNN", 1): _Summed(_fixed(2), _fixed(2)),
    ("LSTM", 2): _Summed(_fixed(2), _fixed(-1), 0, True),
    ("GRU", 2): _Summed(_fixed(2), _fixed(-1), 0, True),
    ("RNN", 2): _Summed(_fixed(2), _fixed(-1), 0, True),
}


@dataclass(frozen=True, eq=False)
class Consumer:
    """One use of a weight. `channels` [C]: the channel of each position that is summed over."""

    weight: Weight
    use: Use
    channels: Array

    @property
    def tap(self) -> tuple[Tap, int]:
        """What it multiplies, and the axis of the channels."""
        found = _SUMMED[self.use.node.op, self.use.slot]
        return Tap(self.use.node, found.slot, found.made), found.axis(self.use.node)

    def matrix(self) -> Array:
        """The weight as [all else, C], float64."""
        operand = self.use.path.apply(self.weight.array())
        column = _SUMMED[self.use.node.op, self.use.slot].column(self.use.node)
        turned = np.moveaxis(operand, column, -1)
        return turned.reshape(-1, turned.shape[-1]).astype(np.float64)


def consumers(channels: Channels, weights: Sequence[Weight]) -> list[Consumer]:
    """All that sum over one axis of channels, in the order of the nodes."""
    found = []
    for weight in weights:
        for use in weight.uses:
            summed = _SUMMED.get((use.node.op, use.slot))
            if summed is None or use.node.graph is not channels.model.graph:
                continue
            if use.node.op in ("Conv", "ConvTranspose") and use.layout.groups > 1:
                continue
            if use.node.op == "MatMul" and len(use.layout.shape) != 2:
                continue
            ids = channels.axes.of(use.operand, use.node, use.slot)[summed.column(use.node)]
            found.append(Consumer(weight, use, channels.solution.channel[ids]))
    return found
