"""compress: models that are random, give NaN, have no inputs, or carry more than a graph."""

import numpy as np
import pytest

from onnx_compress.ir.errors import CalibrationError, ModelError

from models_by_text import (
    SAMPLES,
    build,
    draw,
    left,
    quick,
    run,
    same_numbers_in_any_order,  # noqa: F401
    two_layers,
)


def test_a_model_whose_outputs_are_random_is_not_blamed_on_a_pass():
    proto = build(
        "g (float[N,96] x) => (float[N,64] y, float[?,?] z) "
        "{ i = Identity (x)  y = MatMul (i, W)  z = RandomNormalLike (y) }",
        W=draw(96, 64),
    )
    result = quick(proto, "fold", SAMPLES)
    assert len(result.model.graph.node) <= 3


def test_a_model_that_gives_nan_by_itself_may_go_on_doing_so():
    proto = build(
        "g (float[N,96] x) => (float[N,64] y) { l = Log (x)  i = Identity (x)  h = MatMul (i, W)"
        "  r = Reshape (l, flat)  s = ReduceMax (r)  k = Mul (h, zero)  n = Sqrt (minus)"
        "  p = Pad (k, pads)  c = Slice (h, z1, z2, axis)  a = Mul (c, n)"
        "  b = Slice (h, z2, z64, axis)  y = Concat <axis=1> (a, b) }",
        W=draw(96, 64),
        minus=np.float32([-1]),
        flat=np.int64([-1]),
        zero=np.float32([0]),
        pads=np.int64([0, 0, 0, 0]),
        z1=np.int64([0]),
        z2=np.int64([2]),
        z64=np.int64([64]),
        axis=np.int64([1]),
    )
    result = quick(proto, "quant(bits=8)", SAMPLES)
    (out,) = run(result.model, SAMPLES)
    assert np.isnan(out[:, :2]).all()
    assert np.isfinite(out[:, 2:]).all()
    assert 0 < result.report.error < 0.1


def test_a_model_without_inputs_is_compressed():
    proto = build("g () => (float[64,64] y) { y = MatMul (W, V) }", W=draw(64, 64), V=draw(64, 64))
    report = quick(proto, "quant(bits=8)", fold=False).report
    assert report.bytes_after < report.bytes_before
    assert report.error < 0.05


def test_a_model_that_needs_real_inputs_asks_for_them():
    proto = build(
        "g (float[N,M] x) => (float[?,?] y) { y = Reshape (x, s) }", s=np.int64([1237, 7])
    )
    with pytest.raises(CalibrationError) as caught:
        quick(proto)
    assert "--calib" in caught.value.hint


def test_a_model_that_does_not_load_is_a_model_error(tmp_path):
    proto = build("g (float[N,4] x) => (float[N,4] y) { y = Nonsense (x) }")
    with pytest.raises(ModelError):
        quick(proto, out=tmp_path / "out.onnx")
    assert not left(tmp_path)


def test_without_fold_there_is_no_clean_up():
    proto = two_layers()
    with_fold = quick(proto, "quant(bits=16)").model
    without = quick(proto, "quant(bits=16)", fold=False).model
    count = lambda model: sum(node.op_type == "Identity" for node in model.graph.node)  # noqa: E731
    assert (count(with_fold), count(without)) == (0, 1)


def test_documentation_and_metadata_stay(tmp_path):
    proto = two_layers()
    proto.producer_name, proto.model_version, proto.domain = "somebody", 7, "example.org"
    proto.metadata_props.add(key="author", value="me")
    proto.graph.doc_string = "two layers"
    result = quick(proto, "quant(bits=8)").model
    assert (result.producer_name, result.model_version, result.domain) == (
        "somebody",
        7,
        "example.org",
    )
    assert [p.key for p in result.metadata_props] == ["author", "onnx_compress.sha256"]
    assert result.metadata_props[0].value == "me"
    assert result.graph.doc_string == "two layers"
    assert result.graph.name == proto.graph.name
