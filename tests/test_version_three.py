"""Models of version three, whose weights are listed as inputs."""

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, to_proto

from graphs import WIDE, product, run, weight


def version_three() -> ModelProto:
    model = product(ir_version=3)
    for name in ("w", "v"):
        model.graph.input.append(helper.make_tensor_value_info(name, 1, [WIDE, WIDE]))
    model.opset_import[0].version = 8
    return model


def test_initializers_of_version_three_are_weights_and_not_inputs():
    view = from_proto(version_three())
    assert [value.name for value in view.inputs()] == ["x"]
    assert [name for name, _ in view.interface()] == ["x", "y"]
    assert all(view.constant(value) is not None for value in view.graph.initializers)
    assert to_proto(view) == version_three()


def test_raising_version_three_does_not_make_weights_overridable():
    view = from_proto(version_three())
    before = view.interface()
    view.add_constant(view.graph, np.float32(1), "new")
    assert view.ir_version >= 4
    assert view.interface() == before
    assert all(view.constant(value) is not None for value in view.graph.initializers)
    assert [info.name for info in to_proto(view).graph.input] == ["x"]
    x = np.ones((1, WIDE), np.float32)
    np.testing.assert_array_equal(run(view, x=x), run(version_three(), x=x))


def test_a_weight_of_another_shape_is_listed_with_it():
    view = from_proto(version_three())
    (w,) = [value for value in view.graph.initializers if value.name == "w"]
    view.set_constant(w, np.ones((WIDE, 3), np.float32))
    listed = {info.name: info for info in to_proto(view).graph.input}
    assert [dim.dim_value for dim in listed["w"].type.tensor_type.shape.dim] == [WIDE, 3]
    assert [dim.dim_value for dim in listed["v"].type.tensor_type.shape.dim] == [WIDE, WIDE]


def test_from_version_four_on_an_initializer_that_is_an_input_may_be_overridden():
    model = version_three()
    model.ir_version = 4
    view = from_proto(model)
    assert [name for name, _ in view.interface()] == ["x", "w", "v", "y"]
    assert [value.name for value in view.inputs()] == ["x"]
    for value in view.graph.initializers:
        assert view.constant(value) is None
        with pytest.raises(InvalidError):
            view.set_constant(value, weight(5))
