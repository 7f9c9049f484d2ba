"""The bridge to onnx-graphsurgeon, which stays at the edge: no gs object lives inside.

    Model  --lend-->  gs.Graph  --anybody's script-->  gs.Graph  --write-->  Model

Its own importer and exporter drop much of what a model holds, and break some of the rest. Here its
objects are made from the view, and it is kept what each came from; on the way back everything that
a script left as it was is the very proto it came from. Weights are read when a script asks for
their numbers, and keep their place where it does not change them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import onnx_graphsurgeon
from onnx import helper
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph.gs.changes import Changes, compare
from onnx_compress.ir.graph.gs.export import write_model
from onnx_compress.ir.graph.gs.graphs import GraphWriter
from onnx_compress.ir.graph.gs.lending import Origins, lend
from onnx_compress.ir.graph.gs.match import Match
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import Storage

# whatever gs and numpy raise on objects that do not fit
_FAILURES = (TypeError, ValueError, AttributeError, KeyError, IndexError, UnboundLocalError)


def from_gs(graph: Any) -> Model:
    """A model from a gs.Graph, which is left as it is. Raises UnsupportedError."""
    with _explained("give the ONNX model instead"):
        storage = Storage()
        match = Match(graph, Origins())
        proto = write_model(match, GraphWriter(match, storage))
        if not graph.ir_version:
            proto.ir_version = max(helper.find_min_ir_version_for(proto.opset_import, True), 4)
        if not proto.graph.output:
            raise InvalidError("the graph has no outputs", "give a complete model")
        return Model(proto, None, storage)


def to_gs(model: Model) -> Any:
    """A new gs.Graph, which reads weights from the storage of the model.

    What graphsurgeon knows no name for (types, sparse tensors) is among the attributes as protos.
    """
    with _explained("ask for a ModelProto or a file instead"):
        return lend(model)[0]


class Trip:
    """A model that a script of graphsurgeon is run on.

    trip = Trip(model)
    after, changes = trip.back(script(trip.graph) or trip.graph)
    """

    def __init__(self, model: Model) -> None:
        """Lend a model, which is not changed. Raises UnsupportedError."""
        self.model = model
        with _explained("graphsurgeon cannot be used on this model"):
            self.graph, self._origins = lend(model)

    def back(self, graph: Any) -> tuple[Model, Changes]:
        """The model that a script made of `graph`, and what is different.

        What graphsurgeon does not know is put back where its node or value is still there. `graph`
        may be another than the one lent: its parts are found by their names then.
        Raises UnsupportedError and InvalidError for graphs that are no ONNX.
        """
        if not isinstance(graph, onnx_graphsurgeon.Graph):
            what = f"a script gives a gs.Graph or None, not {type(graph).__name__}"
            raise UnsupportedError(what, "return the graph")
        with _explained("the script left something in the graph that ONNX cannot hold"):
            match = Match(graph, self._origins, self.model)
            writer = GraphWriter(match, self.model.storage, self.model)
            after = Model(write_model(match, writer, self.model), None, self.model.storage)
            inputs = {value for value, _ in after.graph.inputs}
            if after.ir_version < 4 and not inputs >= after.graph.initializers.keys():
                after.raise_ir_version(4)  # below, every initializer is an input
            return after, compare(self.model, after, match, writer)


@contextlib.contextmanager
def _explained(hint: str) -> Iterator[None]:
    """Without what gs prints, and with its failures in words."""
    try:
        with G_LOGGER.suppress(G_LOGGER.CRITICAL + 1):
            yield
    except (*_FAILURES, onnx_graphsurgeon.OnnxGraphSurgeonException) as error:
        raise UnsupportedError(f"graphsurgeon: {error}", hint) from error
