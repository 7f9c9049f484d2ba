"""Arrays of any type, and pieces of a size that a test sets."""

import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto, load, save, tensors

from graphs import parsed

ELEMENTS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING})


def pieces_of(size: int):
    return mock.patch.object(tensors, "PIECE", size)


def numbers(element: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    low = 1 if element == TensorProto.FLOAT8E8M0 else 0  # which has no zero
    values = np.asarray(np.random.default_rng(seed).integers(low, low + 2, shape))
    return values.astype(helper.tensor_dtype_to_np_dtype(element))


# ----------------------------------------------------------------------------------------- slices


def model_of(array: np.ndarray) -> ModelProto:
    proto = parsed("(float[N] x) => (float[N] y) { y = Relu(x) }")
    proto.graph.initializer.append(numpy_helper.from_array(array, "w"))
    return proto


def stored_in(place: str, array: np.ndarray, folder: Path):
    """A model whose one weight is kept in its file, in one beside it, or in a caller's proto."""
    proto, path = model_of(array), folder / "m.onnx"
    if place == "proto":
        return from_proto(proto)
    save(from_proto(proto), path)
    if place == "data file":
        tensor = proto.graph.initializer[0]
        (folder / "w.bin").write_bytes(b"\xff" * 8 + tensor.raw_data + b"\xff" * 8)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", 8), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        path.write_bytes(proto.SerializeToString())
    return load(path)


def traced(action) -> int:
    """Most bytes of Python and numpy that an action holds at a time."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
