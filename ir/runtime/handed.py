"""Weights that the runtime is handed as arrays, beside a model without them.

    model.onnx, 18 MB   ->   skeleton, 30 kB   +   {"conv1.weight": array, ...}

Nothing is built, parsed and copied. Weights that only bodies read or that are in Constant nodes,
of types that numpy has not, or that may be axes or sizes, are in the message as in a file; what
nothing reads is left out.
"""

from typing import Any

from onnx import GraphProto, ModelProto, TensorProto

from onnx_compress.ir.graph.elements import Array, dims, np_dtype
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.storage import THRESHOLD, Storage
from onnx_compress.ir.graph.wire import reference

_LOCATION = "handed over"


def handed(skeleton: ModelProto, storage: Storage, options: Any) -> tuple[bytes, list[Array]]:
    """The message to load, and the arrays that have to stay as long as the session does.

    The options of the session are told of them; the skeleton is changed.
    """
    import onnxruntime

    graph = skeleton.graph
    read = {name for node in graph.node for name in node.input}
    ports = {port.name for port in (*graph.input, *graph.output)}
    wanted = read | ports | _read_inside(graph)
    names: list[str] = []
    kept: list[Array] = []
    values: list[Any] = []
    for tensor in list(graph.initializer):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        if tensor.name not in wanted:
            graph.initializer.remove(tensor)
            continue
        blob, dtype = reference(tensor), np_dtype(tensor.data_type)
        told = blob.length < THRESHOLD or (dtype.kind == "i" and dtype.itemsize >= 4)
        # the runtime looks for what its nodes read alone, and itself reads axes, sizes and factors
        if tensor.name in read and dtype.isbuiltin == 1 and not told:
            data = storage.shared(blob)
            array = data.view(dtype).reshape(dims(tensor))
            tensor.external_data[0].value = _LOCATION
            names.append(tensor.name)
            kept.append(data)
            values.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
    if names:
        options.add_external_initializers(names, values)
    return b"".join(chunks(pieces(skeleton), storage)), kept


def _read_inside(graph: GraphProto) -> set[str]:
    """What nodes of bodies read, or bodies give out, at any depth."""
    found: set[str] = set()
    todo = [graph]
    while todo:
        for node in todo.pop().node:
            for attribute in node.attribute:
                bodies = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                found |= {name for body in bodies for inner in body.node for name in inner.input}
                found |= {port.name for body in bodies for port in body.output}
                todo += bodies
    return found
