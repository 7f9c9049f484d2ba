"""Walk: a model run for many samples as far as somebody wants to see, then further.

    walk.reach([x])   ->   x, sample by sample; the weights behind x may still be changed

Each node runs once. Activations wait in memory where they are small, in a scratch file where they
are not, until nothing needs them.
"""

from collections.abc import Sequence
from typing import Any

from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import extract, repeatable
from onnx_compress.ir.graph.stages import reaching
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.runtime.activations import Activations
from onnx_compress.ir.runtime.session import Feed, Session


class Walk:
    """Of the main graph; nodes that were run must not be changed any more."""

    def __init__(self, model: Model, feeds: Sequence[Feed], threads: int = 1) -> None:
        """Nothing is run yet."""
        self.model, self.threads, self.count = model, threads, len(feeds)
        self._kept = Activations(feeds)
        self._done: set[Node] = set()
        self._fixed = repeatable(model)

    def reach(self, values: Sequence[Value]) -> None:
        """Run what makes these values. Raises InvalidError."""
        part = reaching(self.model, values, self._done, self._fixed)
        self._done.update(node for node in part.nodes if node not in self._fixed)
        if part.gives:
            given = {value: self._kept.element(value) for value in part.reads}
            session = Session(extract(self.model, part, given), self.threads)
            results = session.run_all(self._kept.feeds(part.reads))
            for sample, outputs in enumerate(results):
                for value, array in zip(part.gives, outputs, strict=True):
                    self._kept.put(value, sample, array)
        self._kept.drop(part.last_reads)

    def value(self, value: Value, sample: int) -> Any:
        """A value that was reached, or that the model was given or holds."""
        constant = self.model.constant(value)
        return constant if constant is not None else self._kept.get(value, sample)
