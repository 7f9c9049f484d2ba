"""Models run in pieces and whole, for the tests that compare the two."""

from unittest import mock

import numpy as np
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.graph.partition import partition
from onnx_compress.ir.runtime import (
    Session,
)
from onnx_compress.ir.runtime import pieces as pieces_module
from onnx_compress.ir.runtime.pieces import Pieces

from heavy_models import HEAVY


def feeds(proto: ModelProto, count: int = 3) -> list[dict[str, np.ndarray]]:
    """Samples, each of another number of rows."""
    rng = np.random.default_rng(1)
    stored = {tensor.name for tensor in proto.graph.initializer}
    width = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    found = []
    for at in range(count):
        every = {"t": np.array(at % 2 == 0)}
        every["x"] = rng.standard_normal((at % 4 + 1, width)).astype(np.float32)
        names = {info.name for info in proto.graph.input} - stored
        found.append({name: array for name, array in every.items() if name in names})
    return found


def in_pieces(proto: ModelProto, samples, limit: int = HEAVY, **options) -> list[list]:
    """Outputs of parts of `limit` bytes, loaded like any model."""

    def cut(model, _):
        return partition(model, limit)

    with mock.patch.object(pieces_module, "partition", cut):
        return list(Pieces(from_proto(proto), **options).run_all(samples))


def whole(proto: ModelProto, samples, **options) -> list[list]:
    return list(Session(from_proto(proto), **options).run_all(samples))


def assert_equal(found: list[list], expected: list[list], tolerance: float = 0) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            if tolerance and a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(a, b)
