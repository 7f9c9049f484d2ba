"""compress: every kind of model it takes, in and out, and what is no model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from onnx_compress.ir.errors import LoadError, ModelError
from onnx_compress.ir.graph import Model, from_proto, to_bytes

from models_by_text import (
    SAMPLES,
    left,
    quick,
    run,
    same_numbers_in_any_order,  # noqa: F401
    source_file,  # noqa: F401
    two_layers,
)


def as_path(proto: ModelProto, folder: Path) -> tuple[Path, Callable[[], bytes]]:
    path = folder / "given.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, path.read_bytes


def as_text_path(proto: ModelProto, folder: Path) -> tuple[str, Callable[[], bytes]]:
    path, state = as_path(proto, folder)
    return str(path), state


def as_proto(proto: ModelProto, folder: Path) -> tuple[ModelProto, Callable[[], bytes]]:
    return proto, lambda: proto.SerializeToString(deterministic=True)


def as_graphsurgeon(proto: ModelProto, folder: Path) -> tuple[gs.Graph, Callable[[], bytes]]:
    graph = gs.import_onnx(proto)
    return graph, lambda: gs.export_onnx(graph).SerializeToString(deterministic=True)


def as_model(proto: ModelProto, folder: Path) -> tuple[Model, Callable[[], bytes]]:
    model = from_proto(proto)
    return model, lambda: to_bytes(model)


KINDS = [as_path, as_text_path, as_proto, as_graphsurgeon, as_model]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", ["quant(bits=8)", "prune(sparsity=0.5),quant(bits=16)"])
def test_the_argument_stays_as_it_is(kind, passes, tmp_path):
    model, state = kind(two_layers(), tmp_path)
    before = state()
    quick(model, passes, SAMPLES)
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_of_the_kind_given(kind, tmp_path):
    proto = two_layers()
    model, _ = kind(proto, tmp_path)
    result = quick(model, "quant(bits=8)", SAMPLES).model
    expected = ModelProto if isinstance(model, str | Path) else type(model)
    assert type(result) is expected
    if isinstance(result, gs.Graph):
        result = gs.export_onnx(result)
    data = result if isinstance(result, ModelProto) else to_bytes(result)
    (before,), (after,) = run(proto, SAMPLES), run(data, SAMPLES)
    assert 0 < np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


def test_with_a_path_and_a_place_the_result_is_the_place(source, tmp_path):
    out = tmp_path / "out.onnx"
    result = quick(source, "quant(bits=8)", out=str(out))
    assert Path(result.model) == out
    assert out.stat().st_size == result.report.bytes_after < source.stat().st_size
    onnx.checker.check_model(str(out), full_check=True)


@pytest.mark.parametrize("thing", [None, 3, b"bytes", {"a": 1}])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(LoadError):
        quick(thing)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        quick(path, out=tmp_path / "out.onnx")
    assert left(tmp_path) == {"in.onnx"}


def test_a_file_that_is_cut_short_is_refused(source, tmp_path):
    source.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(ModelError):
        quick(source, out=tmp_path / "out.onnx")
    assert left(tmp_path) == {"in.onnx"}
