"""Weights that a file lists as inputs though it need not, from IR 4 on: exports of 2019."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from onnx import TensorProto, helper, numpy_helper

from onnx_compress import compress
from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant
from onnx_compress.testing import models
from onnx_compress.verification import verify

from graphs import run

LAYERS = 3


def network(listed=range(LAYERS), ir_version=4, gain=None):
    """Convolutions with BatchNormalization; the weights of some layers are inputs as well."""
    rng = np.random.default_rng(0)
    graph = onnx.parser.parse_model(
        f"""<ir_version: {ir_version}, opset_import: ["": 9]>
        agraph (float[N,8,12,12] x) => (float[N,8,12,12] y) {{
            {" ".join(layer(at) for at in range(LAYERS))}
            {"y = Identity(x3)" if gain is None else "y = Mul(x3, gain)"} }}"""
    )
    for at in range(LAYERS):
        arrays = {"w": rng.standard_normal((8, 8, 3, 3)) / 9, "b": rng.standard_normal(8)}
        arrays |= {"s": 1 + rng.random(8), "o": rng.standard_normal(8)}
        arrays |= {"m": rng.standard_normal(8), "v": 1 + rng.random(8)}
        for name, array in arrays.items():
            add(graph, f"{name}{at}", array, at in listed)
    if gain is not None:
        add(graph, "gain", np.float32(gain), True)
    return graph


def layer(at):
    source = "x" if at == 0 else f"x{at}"
    return (
        f"c{at} = Conv<pads = [1,1,1,1]>({source}, w{at}, b{at})"
        f" n{at} = BatchNormalization(c{at}, s{at}, o{at}, m{at}, v{at}) x{at + 1} = Relu(n{at})"
    )


def add(model, name, array, listed):
    tensor = numpy_helper.from_array(np.asarray(array, np.float32), name)
    model.graph.initializer.append(tensor)
    if listed:
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor.dims)
        model.graph.input.append(info)


def inputs(proto):
    return [info.name for info in proto.graph.input]


X = np.random.default_rng(1).standard_normal((6, 8, 12, 12)).astype(np.float32)


def test_they_are_no_part_of_the_interface_and_come_back_as_they_were():
    view = from_proto(network())
    assert [name for name, _ in view.interface()] == ["x", "y"]
    assert all(view.constant(value) is not None for value in view.graph.initializers)
    assert to_proto(view) == network()


def test_fold_makes_them_constants_and_goes_on_with_them():
    folded = Fold()(network())
    assert inputs(folded) == ["x"]
    assert not [node for node in folded.graph.node if node.op_type == "BatchNormalization"]
    np.testing.assert_allclose(run(folded, x=X[:1])[0], run(network(), x=X[:1])[0], atol=1e-4)


@pytest.mark.parametrize("taken", [Quant(bits=8), Quant(bits=4), Prune(channels=0.3)], ids=str)
def test_whatever_changes_them_makes_all_constants(taken):
    small = taken(network(), fit=[{"x": X[at : at + 1]} for at in range(4)])
    assert inputs(small) == ["x"]
    if isinstance(taken, Quant):
        (found,), (expected,) = run(small, x=X[5:]), run(network(), x=X[5:])
        assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected)


def test_the_report_says_so_and_verify_finds_nothing(tmp_path):
    onnx.save(network(), tmp_path / "a.onnx")
    result = compress(tmp_path / "a.onnx", "quant(bits=8)", {"x": X}, tmp_path / "b.onnx")
    (note,) = [text for text in result.report.warnings if "default" in text]
    assert note == "18 inputs with a default are constants now: w0, b0 and others"
    assert result.report.bytes_after < result.report.bytes_before / 2
    assert not verify(tmp_path / "a.onnx", tmp_path / "b.onnx", data={"x": X}).findings


def test_nothing_changed_is_nothing_said(tmp_path):
    onnx.save(network(), tmp_path / "a.onnx")
    result = compress(tmp_path / "a.onnx", "quant(bits=8)", {"x": X}, exclude=["*"], fold=False)
    assert not [text for text in result.report.warnings if "default" in text]
    assert inputs(result.model) == inputs(network())


@pytest.mark.parametrize("listed", [(), (0,)])
def test_a_few_of_many_are_meant_to_be_replaced(listed):
    model = network(listed, ir_version=8, gain=2.0)
    names = [name for name, _ in from_proto(model).interface()]
    assert names == [*inputs(model), "y"]
    small = Quant(bits=8)(model)
    assert inputs(small) == inputs(model)
    once, twice = (run(small, x=X[:1], gain=np.float32(gain))[0] for gain in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-4)


def test_they_can_be_changed_and_taken_out_like_others():
    view = from_proto(network())
    bias = next(value for value in view.graph.initializers if value.name == "b1")
    view.set_constant(bias, np.zeros(8, np.float32))
    assert view.unlist()
    assert inputs(to_proto(view)) == ["x"]
    assert view.unlist() == []
    few = from_proto(network(()))
    assert few.unlist() == []
    meant = from_proto(network((), gain=1.0))
    (gain,) = [value for value in meant.graph.initializers if value.name == "gain"]
    with pytest.raises(InvalidError):
        meant.set_constant(gain, np.float32(2))


@given(models(opsets=(13, 21)))
@settings(max_examples=30, deadline=None)
def test_drawn_models_are_folded_alike_with_their_weights_listed(proto):
    plain = Fold()(proto)
    listed = onnx.ModelProto()
    listed.CopyFrom(proto)
    for tensor in proto.graph.initializer:
        known = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        listed.graph.input.append(known)
    assume(from_proto(listed).listed)
    folded = Fold()(listed)
    assert inputs(folded) == inputs(plain)
    assert [node.op_type for node in folded.graph.node] == [n.op_type for n in plain.graph.node]
