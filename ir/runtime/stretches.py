"""Stretches: a model run stretch by stretch, which may be edited ahead of where it is.

    inputs --stretch--> y of one node    (its weights are changed)    --stretch--> y of the next ...

Each node runs about once, however many are stopped at. What later stretches need waits in memory
or a scratch file: as bytes where it is quantized, since DequantizeLinear is run again. Nothing is
fused, so that products of bytes saturate on no processor.
"""

from collections.abc import Iterator, Sequence

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, extract
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.runtime.activations import Activations
from onnx_compress.ir.runtime.session import Feed, Session

_AGAIN = ("DequantizeLinear", "Constant")  # cheaper to run again than to keep the result of


class Stretches:
    """Over the main graph. Nodes are stopped at in their order."""

    def __init__(self, model: Model, feeds: Sequence[Feed], threads: int = 1) -> None:
        self.model, self.threads, self._count = model, threads, len(feeds)
        self._kept = Activations(feeds)
        self._known: set[Value] = set(model.inputs())

    def outputs(self, node: Node) -> Iterator[Array]:
        """The first output of a node sample by sample; the node itself is run again later.

        Raises InvalidError, UnsupportedError.
        """
        nodes, reads = self._needed(node)
        gives = self._crossing(nodes, node)
        part = Part(tuple(nodes), tuple(reads), (node.output, *gives), ())
        piece = extract(self.model, part, {value: self._kept.element(value) for value in reads})
        session = Session(piece, self.threads, optimize=False)
        for sample, results in enumerate(session.run_all(self._kept.feeds(reads))):
            for value, result in zip(gives, results[1:], strict=True):
                self._kept.put(value, sample, result)
            yield results[0]
        self._known |= set(gives)

    def _needed(self, node: Node) -> tuple[list[Node], list[Value]]:
        """The nodes that were not run yet, producers first, and the known values they read."""
        order: dict[Node, None] = {}
        reads: dict[Value, None] = {}
        stack = [(node, False)]
        while stack:
            at, ready = stack.pop()
            if ready:
                order.setdefault(at)
                continue
            if at in order:
                continue
            stack.append((at, True))
            for value in (*at.inputs, *at.captures):
                if value in self._known:
                    reads.setdefault(value)
                elif value is not None and value.producer is not None:
                    stack.append((value.producer, False))
        return list(order), list(reads)

    def _crossing(self, nodes: Sequence[Node], last: Node) -> list[Value]:
        """What is computed there and read elsewhere, or by what is run again."""
        inside = {node for node in nodes if node is not last and node.op not in _AGAIN}
        made = [value for node in inside for value in node.outputs if value is not None]
        found = [value for value in made if any(n not in inside for n, _ in value.uses)]
        place = {node: at for at, node in enumerate(nodes)}
        return sorted(found, key=lambda value: (place[value.producer], value.name))  # type: ignore
