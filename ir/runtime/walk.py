"""Walk: a model run for many samples as far as somebody wants to see, then further.

    walk.reach([x])    ->  x, sample by sample; the weights behind x may still be changed
    walk.outputs(node) ->  what a node gives; its own weights may still be changed, too

Each node runs about once. Activations wait in memory where they are small, in a scratch file where
they are not, until nothing needs them: as bytes where they are quantized, since DequantizeLinear is
run again.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import extract, repeatable
from onnx_compress.ir.graph.stages import reaching
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.runtime.activations import Activations
from onnx_compress.ir.runtime.session import Feed, Session


class Walk:
    """Of the main graph; nodes that were run must not be changed any more."""

    def __init__(
        self, model: Model, feeds: Sequence[Feed], threads: int = 1, optimize: bool = True
    ) -> None:
        """Nothing is run yet.

        `optimize`: let the runtime fuse nodes. Without, products of bytes saturate on no processor.
        """
        self.model, self.threads, self.count = model, threads, len(feeds)
        self._optimize = optimize
        self._kept = Activations(feeds)
        self._done: set[Node] = set()
        decoders = {node for node in model.graph.nodes if node.op == "DequantizeLinear"}
        self._again = decoders - repeatable(model)

    def reach(self, values: Sequence[Value]) -> None:
        """Run what makes these values. Raises InvalidError, UnsupportedError."""
        for sample, found in enumerate(self._run(values, self._again)):
            for value in values:
                if value in found:
                    self._kept.put(value, sample, found[value])

    def outputs(self, node: Node) -> Iterator[Array]:
        """The first output of a node, sample by sample, to be read to the end; it is run again.

        Raises InvalidError, UnsupportedError.
        """
        for found in self._run([node.output], {*self._again, node}):
            yield found[node.output]

    def _run(self, values: Sequence[Value], again: Collection[Node]) -> Iterator[dict[Value, Any]]:
        """What the nodes that make these values give, sample by sample; the rest of it is kept."""
        fixed = repeatable(self.model)  # a node may have come between others that are
        part = reaching(self.model, values, self._done, fixed, again)
        if part.gives:
            given = {value: self._kept.element(value) for value in part.reads}
            piece = extract(self.model, part, given)
            session = Session(piece, self.threads, optimize=self._optimize)
            for sample, outputs in enumerate(session.run_all(self._kept.feeds(part.reads))):
                found = dict(zip(part.gives, outputs, strict=True))
                for value, array in found.items():
                    if value.producer not in again:
                        self._kept.put(value, sample, array)
                yield found
        self._done.update(node for node in part.nodes if node not in fixed and node not in again)
        self._kept.drop(part.last_reads)

    def value(self, value: Value, sample: int) -> Any:
        """A value that was reached, or that the model was given or holds."""
        constant = self.model.constant(value)
        return constant if constant is not None else self._kept.get(value, sample)
