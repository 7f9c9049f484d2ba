"""Channels: what is removed equals what is masked, and what cannot be proved stays."""

import numpy as np
import pytest
from hypothesis import given
from onnx import ModelProto

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import Channels, find_channels, masked, without
from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import from_proto
from onnx_compress.testing import examples, models
from onnx_compress.testing.channels import exactness
from onnx_compress.testing.feeds import feed_of

from channel_graphs import (
    FLAT,
    SHAPES,
    graph,
)
from graphs import parsed, run


def channels_of(proto: ModelProto) -> tuple[Channels, dict[str, np.ndarray]]:
    model = from_proto(proto)
    feed = feed_of(model, "normal", 2)
    return find_channels(model, Shapes(model, feed)), feed


@pytest.mark.parametrize("name", SHAPES)
def test_groups_are_found_and_removed_exactly(name):
    channels, feed = channels_of(graph(name))
    assert sorted(group.size for group in channels.groups) == SHAPES[name][2]
    found = list(exactness(channels.model, feed, 0.3, channels=channels))
    assert len(found) == len(channels.groups)
    for each in found:
        assert each.error < 1e-5, each.group
        assert each.effect > 1e-4 or name == "slice", each.group  # half of it is read by nothing


@pytest.mark.parametrize("name", SHAPES)
def test_all_groups_at_once(name):
    channels, feed = channels_of(graph(name))
    removed = channels.removed(*(group.members[-1] for group in channels.groups))
    one = run(masked(channels, removed), **feed)
    other = run(without(channels, removed), **feed)
    for a, b in zip(one, other, strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a)


BARRIERS = {
    "an output": (FLAT + "{ h = MatMul(x, W) y = MatMul(h, V) z = Relu(h) }", "output", True),
    "layer normalization": (
        FLAT + "{ h = MatMul(x, W) n = LayerNormalization(h, s) y = MatMul(n, V) }",
        "LayerNormalization",
        False,
    ),
    "softmax": (FLAT + "{ h = MatMul(x, W) n = Softmax(h) y = MatMul(n, V) }", "Softmax", False),
    "a sum": (
        FLAT + "{ h = MatMul(x, W) n = ReduceMean<axes=[1]>(h) a = Sub(h, n) y = MatMul(a, V) }",
        "ReduceMean",
        False,
    ),
    "a custom operator": (
        FLAT + "{ h = MatMul(x, W) n = com.microsoft.Inverse(h) y = MatMul(h, V) "
        "o = com.microsoft.NGramRepeatBlock(h) }",
        "not known",
        False,
    ),
    "a size that is computed with": (
        FLAT + "{ h = MatMul(x, W) z = Shape(h) f = Cast<to=1>(z) o = Gather(f, i1) r = Sqrt(o) "
        "a = Div(h, r) y = MatMul(a, V) }",
        "computes with its size",
        False,
    ),
}


@pytest.mark.parametrize("name", BARRIERS)
def test_what_cannot_be_proved_stays_with_a_reason(name):
    text, reason, given_out = BARRIERS[name]
    rng = np.random.default_rng(0)
    weights = {"W": (16, 8), "s": (8,), "V": (8, 4)}
    drawn = {k: rng.standard_normal(s).astype("f") for k, s in weights.items()}
    proto = parsed(text, i1=np.array(1), **drawn)
    if given_out:
        proto.graph.output.add().CopyFrom(proto.graph.output[0])
        proto.graph.output[1].name = "h"
    model = from_proto(proto)
    channels = find_channels(model, Shapes(model))
    assert not channels.groups
    assert any(reason in text for text in channels.stuck), channels.stuck


def test_a_size_of_another_axis_may_be_computed_with():
    text = FLAT + (
        "{ h = MatMul(x, W) z = Shape(h) b = Gather(z, i0) u = Unsqueeze(b, i0u) "
        "t = Concat<axis=0>(u, m) r = Reshape(h, t) y = MatMul(r, V) }"
    )
    rng = np.random.default_rng(0)
    proto = parsed(
        text,
        W=rng.standard_normal((16, 8)).astype("f"),
        V=rng.standard_normal((8, 4)).astype("f"),
        i0=np.array(0),
        i0u=np.array([0]),
        m=np.array([8]),
    )
    channels, feed = channels_of(proto)
    assert [group.size for group in channels.groups] == [8]
    assert all(each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels))


def test_a_shared_bias_does_not_tie_two_layers():
    proto = parsed(
        FLAT + "{ h = Gemm(x, W, z) a = Relu(h) g = Gemm(a, U, z) r = Relu(g) y = MatMul(r, V) }",
        **{
            name: np.random.default_rng(1).standard_normal(shape).astype("f")
            for name, shape in {"W": (16, 8), "U": (8, 8), "z": (8,), "V": (8, 4)}.items()
        },
    )
    channels, feed = channels_of(proto)
    assert [group.size for group in channels.groups] == [8, 8]
    assert all(each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels))


def test_declared_shapes_of_inner_values_are_forgotten():
    proto = graph("two convolutions")
    info = proto.graph.value_info.add(name="h")
    info.type.tensor_type.elem_type = 1
    for size in (2, 8, 6, 6):
        info.type.tensor_type.shape.dim.add(dim_value=size)
    channels, feed = channels_of(proto)
    assert [each.error < 1e-5 for each in exactness(channels.model, feed, channels=channels)]


def test_an_axis_is_never_emptied():
    channels, _ = channels_of(graph("two convolutions"))
    removed = channels.removed(*channels.groups[0].members)
    assert channels.empties(removed)
    with pytest.raises(PreconditionError, match="nothing would be left"):
        without(channels, removed)


def test_savings_are_those_of_the_model():
    channels, feed = channels_of(graph("two convolutions"))
    removed = channels.removed(*channels.groups[0].members[:2])
    cut = without(channels, removed)
    after = find_channels(cut, Shapes(cut, feed))
    none = after.none()
    assert channels.macs(removed) == pytest.approx(after.macs(none))
    assert channels.nbytes(removed) == pytest.approx(after.nbytes(none))


@examples(60)
@given(proto=models())
def test_drawn_models(proto: ModelProto) -> None:
    model = from_proto(proto)
    for each in exactness(model, feed_of(model, "normal", 1, 1)):
        assert each.error <= max(1e-5, 4 * each.rounding), each.group
