"""The library inside of other programs: passes alone, and passes in any form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from onnx_compress import compress, plan
from onnx_compress.ir.errors import (
    CalibrationError,
    InvalidError,
    OptionError,
    OrderError,
)
from onnx_compress.ir.graph import Model, from_proto, to_bytes
from onnx_compress.passes import Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

from embedded_runs import (
    DATA,
    FEED,
    SOURCE,
    TEXT,
)
from models_by_text import build, draw, error, left, quick

LISTED = [Prune(sparsity=0.3), Quant(bits=8)]
ITEMS = [*LISTED, Quant(bits=16), Fold(), Pipeline.parse(TEXT, fold=True)]


def copied() -> ModelProto:
    return onnx.load_from_string(SOURCE.SerializeToString())


# ------------------------------------------------------------------------------- one pass alone


def file(folder: Path) -> Path:
    path = folder / "in.onnx"
    path.write_bytes(SOURCE.SerializeToString())
    return path


# kind -> how it is made, the bytes that tell whether it was changed, and what comes back for it
Kind = tuple[Callable[[Path], Any], Callable[[Any], bytes], type]
KINDS: dict[str, Kind] = {
    "ModelProto": (lambda _: copied(), ModelProto.SerializeToString, ModelProto),
    "Path": (file, Path.read_bytes, ModelProto),
    "str": (lambda folder: str(file(folder)), lambda path: Path(path).read_bytes(), ModelProto),
    "gs.Graph": (
        lambda _: gs.import_onnx(copied()),
        lambda graph: gs.export_onnx(graph).SerializeToString(),
        gs.Graph,
    ),
    "Model": (lambda _: from_proto(copied()), to_bytes, Model),
}


def proto(model: Any) -> ModelProto:
    if isinstance(model, gs.Graph):
        return gs.export_onnx(model)
    return onnx.load_from_string(to_bytes(model)) if isinstance(model, Model) else model


@pytest.mark.parametrize("item", ITEMS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_gives_the_kind_it_is_given_and_leaves_that_alone(tmp_path, kind, item):
    make, content, returned = KINDS[kind]
    given = make(tmp_path)
    before, files = content(given), left(tmp_path)
    result = item(given)
    assert type(result) is returned
    assert result is not given
    assert content(given) == before
    assert left(tmp_path) == files
    found = proto(result).SerializeToString()
    assert found != SOURCE.SerializeToString()
    assert found == proto(item(given)).SerializeToString()
    assert error(SOURCE, proto(result), FEED) < (1e-5 if item == Fold() else 0.3)


@pytest.mark.parametrize(
    "item",
    [Quant(), Prune(), Quant(activations="float"), Pipeline.parse("prune,quant", fold=True)],
    ids=str,
)
def test_a_pass_without_numbers_cannot_choose_alone(item):
    with pytest.raises(OptionError, match="no numbers") as caught:
        item(SOURCE)
    assert "compress" in caught.value.hint


@pytest.mark.parametrize("exclude", [("W",), ("W*",), ["W"], "W", "W*"], ids=repr)
def test_a_pass_leaves_alone_what_is_excluded(exclude):
    result = Quant(bits=8)(SOURCE, exclude=exclude)
    assert {t.name for t in result.graph.initializer} == {"W", "V.q", "V.s", "b"}


def test_a_pass_chooses_by_the_target_and_the_sample():
    wide = build("g (float[N,512] x) => (float[N,512] y) { y = MatMul (x, W) }", W=draw(512, 512))
    for target, rows, op in (
        ("avx512-vnni", 128, "MatMulInteger"),
        ("avx512-vnni", 1, "DequantizeLinear"),
        ("portable", 128, "Cast"),
    ):
        sample = {"x": draw(rows, 512)}
        result = Quant(bits=8)(wide, target=targets.load(target), sample=sample)
        assert op in {node.op_type for node in result.graph.node}


def test_a_target_by_its_name_is_taken_as_compress_takes_it():
    named, loaded = (
        Quant(bits=8)(SOURCE, target=t) for t in ("portable", targets.load("portable"))
    )
    assert named == loaded
    with pytest.raises(OptionError):
        Quant(bits=8)(SOURCE, target="no such")


def test_a_sample_stands_for_inputs_that_cannot_be_drawn():
    picky = build(
        "g (float[A,B] x, int64[2] s) => (float[?,?] y) { h = Reshape (x, s)  y = MatMul (h, W) }",
        W=draw(97, 64),
    )
    with pytest.raises(CalibrationError):
        Quant(bits=8)(picky)
    sample = {"x": draw(2, 97), "s": np.int64([2, 97])}
    for options in ({"sample": sample}, {"fit": [sample]}, {"fit": (sample, sample)}):
        assert error(picky, Quant(bits=8)(picky, **options), sample) < 0.1


def test_a_pass_refuses_a_model_that_cannot_be_run():
    broken = copied()
    broken.graph.node[0].op_type = "Nothing"
    with pytest.raises(InvalidError):
        Quant(bits=8)(broken)


# ---------------------------------------------------------------------------- passes, in any form


@pytest.mark.parametrize("fold", [True, False])
def test_passes_listed_are_those_written(fold):
    results = [
        quick(SOURCE, passes, DATA, fold=fold)
        for passes in (TEXT, LISTED, tuple(LISTED), Pipeline.parse(TEXT, fold=fold))
    ]
    assert len({result.model.SerializeToString() for result in results}) == 1
    assert {result.report.passes for result in results} == {fold * "fold," + TEXT}


def test_a_single_pass_stands_for_a_list():
    one, several = (quick(SOURCE, passes, DATA) for passes in (Quant(bits=8), [Quant(bits=8)]))
    assert one.model == several.model
    assert one.report.passes == "fold,quant(bits=8)"


def test_passes_in_a_wrong_order_are_refused():
    with pytest.raises(OrderError, match="cannot come before"):
        compress(SOURCE, LISTED[::-1])


@pytest.mark.parametrize("passes", [5, None, Quant, [Quant], ["quant(bits=8)"], [5], [None]])
@pytest.mark.parametrize("function", [compress, plan])
def test_what_is_no_pass_is_refused(function, passes):
    with pytest.raises(OptionError):
        function(SOURCE, passes)
