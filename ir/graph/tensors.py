"""TensorProto to numpy and back, wherever the bytes are."""

from collections.abc import Iterator

import numpy as np
from onnx import SparseTensorProto, TensorProto, numpy_helper

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.elements import (
    PACKED,
    Array,
    Tensor,
    count,
    dims,
    element_of,
    nbytes,
    np_dtype,
    type_name,
)
from onnx_compress.ir.graph.storage import PIECE, THRESHOLD, Storage, shell
from onnx_compress.ir.graph.wire import Blob, refer, reference

_BEGINNING = 64  # bytes


def to_array(tensor: Tensor, storage: Storage) -> Array:
    """The values, shape as in the file. Raises InvalidError where data and shape do not fit."""
    if isinstance(tensor, SparseTensorProto):
        return _dense(tensor, storage)
    try:
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        raw = storage.read(reference(tensor))
        if tensor.data_type in PACKED:
            whole = shell(tensor, None)
            whole.raw_data = raw.tobytes()
            return numpy_helper.to_array(whole)
        return raw.view(np_dtype(tensor.data_type)).reshape(dims(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidError(
            f"its data do not fit {type_name(tensor.data_type)} {list(tensor.dims)}: {error}",
            "the file is damaged",
            tensor.name,
        ) from error


def slices(tensor: Tensor, storage: Storage) -> Iterator[tuple[slice, Array]]:
    """The values in bounded pieces along the first axis, with the place of each.

    Only tensors that are kept elsewhere are read piece by piece. Raises InvalidError.
    """
    shape = dims(tensor)
    small = isinstance(tensor, SparseTensorProto) or tensor.data_location != TensorProto.EXTERNAL
    if small or not shape or tensor.data_type in PACKED or nbytes(tensor) <= PIECE:
        yield slice(0, shape[0] if shape else 1), to_array(tensor, storage)
        return
    blob = reference(tensor)
    row = nbytes(tensor) // shape[0]
    step = max(1, PIECE // row)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        part = TensorProto(data_type=tensor.data_type, dims=(stop - start, *shape[1:]))
        refer(part, Blob(blob.location, blob.offset + start * row, (stop - start) * row))
        yield slice(start, stop), to_array(part, storage)


def _dense(tensor: SparseTensorProto, storage: Storage) -> Array:
    values, indices = to_array(tensor.values, storage), to_array(tensor.indices, storage)
    flat = np.zeros(count(dims(tensor)), values.dtype)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), dims(tensor))
    flat[indices] = values
    return flat.reshape(dims(tensor))


def beginning(tensor: Tensor, storage: Storage) -> bytes:
    """The first bytes of a large tensor, to tell it from others; nothing of a small one."""
    if isinstance(tensor, SparseTensorProto) or tensor.data_location != TensorProto.EXTERNAL:
        return b""
    blob = reference(tensor)
    return storage.read(Blob(blob.location, blob.offset, min(blob.length, _BEGINNING))).tobytes()


def from_array(array: Array, storage: Storage, like: Tensor | None = None) -> TensorProto:
    """A nameless tensor with these values; large ones go to scratch.

    Documentation and metadata are taken over from `like`.
    """
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    blob = None
    if array.nbytes >= THRESHOLD and array.dtype.kind in "fiu":  # of numpy: no bits are packed
        whole = TensorProto(data_type=element_of(array.dtype), dims=array.shape)
        blob = storage.append(array.reshape(-1).view(np.uint8))
    else:
        whole = numpy_helper.from_array(array)
        if whole.HasField("raw_data") and len(whole.raw_data) >= THRESHOLD:
            blob = storage.append(np.frombuffer(whole.raw_data, np.uint8))
    if isinstance(like, TensorProto):
        if like.HasField("doc_string"):
            whole.doc_string = like.doc_string
        whole.metadata_props.extend(like.metadata_props)
    return whole if blob is None else shell(whole, blob)
