"""A model in two: a small message, and its weights as arrays, for a runtime that takes both.

    model.onnx, 18 MB   ->   message, 30 kB   +   {"conv1.weight": array, ...}

Nothing is built, parsed and copied. Weights that only bodies read or that are in Constant nodes,
of types that numpy has not, or that may be axes or sizes, are in the message as in a file; what
nothing reads is left out.
"""

from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph.elements import Array, dims, np_dtype
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import THRESHOLD
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.graph.wire import reference

_LOCATION = "handed over"


def apart(model: Model, skeleton: ModelProto) -> tuple[bytes, dict[str, Array]]:
    """The message, and the weights that it refers to, by name: views, of the model's own memory.

    The skeleton, that of the model, is changed.
    """
    stored = {value.name: value for value in model.graph.initializers}
    weights: dict[str, Array] = {}
    for tensor in list(skeleton.graph.initializer):
        value = stored[tensor.name]
        if not (value.is_used or value.is_input):
            skeleton.graph.initializer.remove(tensor)
        elif _fits(value, tensor):
            data = model.storage.shared(reference(tensor))
            weights[tensor.name] = data.view(np_dtype(tensor.data_type)).reshape(dims(tensor))
            tensor.external_data[0].value = _LOCATION
    return b"".join(chunks(pieces(skeleton), model.storage)), weights


def _fits(value: Value, tensor: TensorProto) -> bool:
    """Whether the runtime takes it as an array.

    It looks for what nodes of the main graph read, and itself reads axes, sizes and factors.
    """
    if tensor.data_location != TensorProto.EXTERNAL or reference(tensor).length < THRESHOLD:
        return False
    dtype = np_dtype(tensor.data_type)
    size = dtype.kind == "i" and dtype.itemsize >= 4
    outside = any(node.graph is value.graph for node, _ in value.uses)
    return dtype.isbuiltin == 1 and not size and outside
