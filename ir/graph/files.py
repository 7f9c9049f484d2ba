"""Models read from files, and to and from ModelProto. See `staged` for writing.

A file is never built in memory: loading cuts the weights out before anything is parsed.
"""

import mmap
import os
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnx_compress.ir.errors import InvalidError, LoadError, UnsupportedError
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import THRESHOLD, Storage
from onnx_compress.ir.graph.wire import LARGEST, WireError, cut, size


def load(path: str | Path) -> Model:
    """Read a model. Weights stay in the file, which is held open.

    Raises LoadError (not a model, truncated, external data missing) and InvalidError.
    """
    path = Path(path)
    storage = Storage()
    try:
        if path.exists() and not path.is_file():
            what = "it is a directory" if path.is_dir() else "it is no plain file"
            raise LoadError(what, "check the path: give an ONNX model", str(path))
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise LoadError("the file is empty", "give an ONNX model", str(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                small = _skeleton_bytes(mapped, storage.open(path))
        proto = ModelProto.FromString(small)
    except (WireError, DecodeError) as error:
        if "deeper" in str(error) or "MaxDepth" in str(error):
            hint = "no runtime reads it: branches in branches can be about 30 deep"
            raise LoadError("its graphs are nested too deeply", hint, str(path)) from None
        hint = "the file is cut short, or in another format"
        raise LoadError(f"not an ONNX model ({error})", hint, str(path)) from None
    except OSError as error:
        raise LoadError(error.strerror or "cannot be read", "check the path", str(path)) from None
    except ValueError as error:  # a path with a NUL
        raise LoadError(str(error), "check the path", repr(str(path))) from None
    if not proto.HasField("graph") or not proto.graph.output or not proto.opset_import:
        hint = "the file is cut short, or in another format"
        what = "not an ONNX model: no graph with outputs, or no operator set"
        raise LoadError(what, hint, str(path))
    try:
        return Model(proto, path.absolute().parent, storage)
    except UnicodeDecodeError:
        hint = "names and documentation are UTF-8 in ONNX; the file is damaged"
        raise LoadError("text in it is not UTF-8", hint, str(path)) from None


def _skeleton_bytes(mapped: mmap.mmap, location: str) -> bytes:
    """The file without its large tensors. Raises WireError, with no view of the mapping left."""
    data = memoryview(mapped)
    problem = ""
    try:
        return cut(data, THRESHOLD, location)
    except WireError as error:
        problem = str(error)  # its traceback holds views, which would keep the mapping open
    finally:
        data.release()
    raise WireError(problem)


def from_proto(proto: ModelProto, folder: str | Path | None = None) -> Model:
    """View of a loaded model, which must not be changed while the view is in use."""
    if not proto.graph.output:
        raise InvalidError("the graph has no outputs", "give a complete model")
    return Model(proto, Path(folder).absolute() if folder is not None else None)


def to_proto(model: Model) -> ModelProto:
    """The complete model with all weights in it. Raises UnsupportedError above 2 GB."""
    proto = ModelProto()
    proto.ParseFromString(to_bytes(model))
    return proto


def to_bytes(model: Model) -> bytes:
    """The complete model as the bytes of a file. Raises UnsupportedError above 2 GB."""
    parts = pieces(model.skeleton())
    if size(parts) > LARGEST:
        raise UnsupportedError("a model above 2 GB has no single message", "save it to a file")
    return b"".join(chunks(parts, model.storage))


def file_size(model: Model) -> int:
    """Bytes the model takes as a single file."""
    return size(pieces(model.skeleton()))


def stored_bytes(model: Model, path: Path | None) -> int:
    """What a model takes: the file that it came from, and what lies beside it."""
    if path is None:
        return file_size(model)
    return path.stat().st_size + sum(data.stat().st_size for data in model.storage.data_files())


def is_external(model: Model) -> bool:
    """Whether the model came with weights in files of their own."""
    return bool(model.storage.data_files())
