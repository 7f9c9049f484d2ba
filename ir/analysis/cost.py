"""What a model costs: bytes stored, numbers, multiply-accumulates, memory at work."""

from dataclasses import dataclass
from math import prod

from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.analysis.shapes import Shapes
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.elements import dims, nbytes
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node
from onnx_compress.ir.runtime import Feed


@dataclass(frozen=True)
class Cost:
    """Figures of one model, for one set of input shapes.

    `parameters`: stored numbers. `weight_bytes`: what they take in the file, sub-byte types
    packed. `file_bytes`: the whole file. `loaded_bytes`: what they take once the runtime has
    folded what it folds at load. `activation_bytes`: most that lives at one time.
    `unknown`: values whose shapes could not be inferred; they count as nothing.
    """

    parameters: int
    weight_bytes: int
    file_bytes: int
    macs: int
    loaded_bytes: int
    activation_bytes: int
    unknown: int

    @property
    def working_bytes(self) -> int:
        """Weights after load and activations at their peak."""
        return self.loaded_bytes + self.activation_bytes


def cost(model: Model, feed: Feed | None = None, shapes: Shapes | None = None) -> Cost:
    """The figures of a model for a run on `feed`; without one, symbolic shapes stay unknown.

    `shapes`: those of such a run, where they are known already: finding them takes one.
    """
    shapes = shapes or Shapes(model, feed)
    stored = [tensor for graph in model.graphs() for _, tensor in model.stored(graph)]
    fixed = fixed_nodes(model, model.graphs())
    unknown = 0
    work = 0
    for node in model.nodes():
        if node in fixed:
            continue
        count = macs(node, shapes)
        work += count or 0
        unknown += count is None
    loaded = _loaded(model, fixed, shapes)
    peak, missed = _peak(model.graph, fixed, shapes)
    return Cost(
        parameters=sum(prod(dims(tensor)) for tensor in stored),
        weight_bytes=sum(nbytes(tensor) for tensor in stored),
        file_bytes=files.file_size(model),
        macs=work,
        loaded_bytes=loaded,
        activation_bytes=peak,
        unknown=unknown + missed,
    )


def _loaded(model: Model, fixed: set[Node], shapes: Shapes) -> int:
    total = 0
    for graph in model.graphs():
        made = [value for node in graph.nodes if node in fixed for value in node.outputs]
        for value in (*graph.initializers, *made):
            if value is None:
                continue
            if value.exits or any(node not in fixed for node in value.consumers):
                total += shapes.nbytes(value) or 0
    return total


def _peak(graph: Graph, fixed: set[Node], shapes: Shapes) -> tuple[int, int]:
    """Most bytes of activations alive at one time, and how many values have no known size."""
    order = [node for node in graph.sorted() if node not in fixed]
    place = {node: at for at, node in enumerate(order)}
    ends: dict[int, list[int]] = {}
    alive = sum(shapes.nbytes(value) or 0 for value, _ in graph.inputs if value.tensor is None)
    peak, unknown = alive, 0
    for at, node in enumerate(order):
        for value in node.outputs:
            if value is None:
                continue
            size = shapes.nbytes(value)
            unknown += size is None
            alive += size or 0
            if not value.exits:
                readers = [place.get(_within(graph, reader), at) for reader in value.consumers]
                ends.setdefault(max(readers, default=at), []).append(size or 0)
        inner = [_peak(body, fixed, shapes) for _, body in node.bodies]
        unknown += sum(missed for _, missed in inner)
        peak = max(peak, alive + max((size for size, _ in inner), default=0))
        alive -= sum(ends.pop(at, []))
    return peak, unknown


def _within(graph: Graph, node: Node) -> Node:
    """The node of this graph that is, or whose bodies hold, `node`."""
    while node.graph is not graph and node.graph.owner is not None:
        node = node.graph.owner
    return node
