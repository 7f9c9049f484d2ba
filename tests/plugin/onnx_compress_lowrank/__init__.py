"""lowrank: a matrix as the product of two thin ones.

    MatMul(x, W)   ->   MatMul(MatMul(x, A), B)      A B: the largest singular values of W

That saves bytes and time where a matrix has few large ones.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from onnx_compress.ir.graph import Model
from onnx_compress.passes import Context, Entry, Pass, Phase, Report, option

SMALL_BOARD = Path(__file__).with_name("small-board.toml")


@dataclass(frozen=True)
class LowRank(Pass):
    """Keep the largest singular values of every matrix."""

    name: ClassVar[str] = "lowrank"
    example: ClassVar[str] = "lowrank(share=0.25)"
    share: float | None = option(None, "share of the singular values to keep", low=0.01, high=1)
    smallest: int = option(64, "rows and columns that a matrix must have", low=1)
    phase: ClassVar[Phase] = Phase.FACTOR

    @property
    def obeyed(self) -> bool:
        """Whether it was told what to do, or is to choose by the error."""
        return self.share is not None

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """The strongest first."""
        return (self,) if self.obeyed else tuple(replace(self, share=s) for s in (0.1, 0.25, 0.4))

    def run(self, model: Model, context: Context) -> Report:
        changes, left = [], []
        for weight in context.weights(model):  # without those that the user excludes
            plain = weight.sole_use and weight.dtype == "FLOAT" and weight.kept == "initializer"
            node = weight.uses[0].node if plain else None
            if node is None or node.op != "MatMul" or node.input(1) is not weight.value:
                left.append(Entry(weight.name, "no plain matrix"))
            elif len(weight.shape) != 2 or min(weight.shape) < self.smallest:
                left.append(Entry(weight.name, f"smaller than {self.smallest}"))
            else:
                u, s, v = np.linalg.svd(weight.array(), full_matrices=False)
                multiple = context.target.channel_multiple
                rank = max(round(self.share * len(s) / multiple), 1) * multiple
                a = model.add_constant(node.graph, u[:, :rank] * s[:rank], f"{weight.name}.a")
                b = model.add_constant(node.graph, v[:rank], f"{weight.name}.b")
                model.set_input(node, 0, model.add_node(node.graph, "MatMul", [node.input(0), a]))
                model.set_input(node, 1, b)
                model.remove_initializer(weight.value)
                changes.append(Entry(weight.name, f"rank {rank}"))
        return Report(tuple(changes), tuple(left), f"{len(changes)} matrices")
