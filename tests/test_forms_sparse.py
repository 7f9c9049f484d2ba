"""Weights stored without their zeros: exact, smaller, folded at load, readable back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.runtime.optimized import optimized
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.densify import densify, is_sparse
from onnx_compress.ir.weights.effective import effective
from onnx_compress.ir.weights.forms import Half, Sparse, affine
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold

from graphs import array, run, view

RNG = np.random.default_rng(3)
LEFT = {"Cast", "CumSum", "Div", "Expand", "Gather", "Mod", "Mul", "Reshape", "ScatterElements"}


def thinned(shape, zeros, kind="float32", seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 100, shape) if kind == "int8" else rng.uniform(0.5, 2, shape)
    return np.where(rng.uniform(size=shape) < zeros, 0, numbers).astype(kind)


def product(weight, opset=17):
    rows, columns = weight.shape
    return view(
        f"(float[N,{rows}] x) => (float[N,{columns}] y) {{ y = MatMul(x, w) }}",
        opset=opset,
        w=weight,
    )


@settings(max_examples=60)
@given(
    rows=st.integers(2, 30),
    columns=st.integers(2, 70),
    zeros=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.97, 0.999, 1.0]),
    kind=st.sampled_from(["float32", "float64", "float16"]),
    opset=st.sampled_from([11, 13, 17, 21]),
    seed=st.integers(0, 99),
)
def test_what_is_put_together_is_the_array(rows, columns, zeros, kind, opset, seed):
    name = {"float32": "float", "float64": "double", "float16": "float16"}[kind]
    weight = thinned((rows, columns), zeros, kind, seed)
    model = view(
        f"(int64[2,1] i) => ({name} whole, {name} picked) "
        "{ j = Abs(i)  whole = Identity(w)  picked = Gather(w, j) }",
        opset=opset,
        w=weight,
    )
    (found,) = find_weights(model)
    Sparse(weight).emit(found)
    i = np.array([[0], [rows - 1]])
    whole, picked = run(from_proto(to_proto(model)), i=i)
    np.testing.assert_array_equal(whole, weight)
    np.testing.assert_array_equal(picked, weight[i])
    densify(model)
    (again,) = find_weights(model)
    assert again.name == "w"
    np.testing.assert_array_equal(again.array(), weight)


def test_gaps_longer_than_a_byte_are_filled():
    weight = np.zeros((4, 2000), "f")
    weight[0, 300], weight[0, 301], weight[2, 7], weight[3, 1999] = 1, 2, 3, 4
    form = Sparse(weight)
    assert form.nbytes() < weight.size // 8  # no bits, but gaps
    model = product(weight)
    form.emit(next(iter(find_weights(model))))
    x = RNG.standard_normal((3, 4)).astype("f")
    np.testing.assert_array_equal(run(model, x=x)[0], run(product(weight), x=x)[0])


@pytest.mark.parametrize("zeros", [0.5, 0.75, 0.9, 0.98])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_the_smaller_of_bits_and_gaps_is_taken(zeros, kind):
    weight = thinned((200, 300), zeros, kind)
    form, kept = Sparse(weight), int((weight != 0).sum())
    bits = weight.size // 8 + (kept + 1) * weight.itemsize
    assert form.nbytes() <= bits
    assert form.saves() > 0
    assert form.saves() < weight.nbytes - kept * weight.itemsize


def test_dense_weights_are_not_smaller():
    assert Sparse(array(40, 50)).saves() < 0


@pytest.mark.parametrize("zeros", [0.5, 0.97])
@pytest.mark.parametrize("coded", ["dense", "half", "codec", "dynamic", "dequantize"])
def test_the_runtime_folds_it_when_it_loads_the_model(zeros, coded):
    weight = thinned((96, 64), zeros)
    model = product(weight, 17)
    (found,) = find_weights(model)
    (use,) = found.uses
    x = RNG.standard_normal((5, 96)).astype("f")
    if coded == "dense":
        Sparse(weight).emit(found)
    elif coded == "half":
        form = Half.of(found)
        form.emit(found)
    else:
        codes = thinned((96, 64), zeros, "int8")
        form = affine(found, codes, np.full((1, 64), 0.01, "f"), {use: coded})
        assert form.nbytes() < codes.nbytes
        form.emit(found)
    assert any(node.op in ("Gather", "ScatterElements") for node in model.nodes())
    seen = optimized(model, {"x": x})
    assert not set(seen.counts) & LEFT - ({"Cast", "Mul"} if coded == "dynamic" else set())
    (one,) = effective(model)
    expected = weight if coded == "dense" else form.decode()
    np.testing.assert_array_equal(one.numbers(), expected)
    np.testing.assert_array_equal(seen.outputs[0], run(model, x=x)[0])


def test_clean_up_leaves_it_and_the_inventory_says_what_it_is():
    weight = thinned((96, 64), 0.5)
    model = product(weight)
    Sparse(weight).emit(next(iter(find_weights(model))))
    before = len(list(model.nodes()))
    x = {"x": RNG.standard_normal((5, 96)).astype("f")}
    assert not Fold().run(model, Context(targets.load("avx2"), x)).modified
    assert len(list(model.nodes())) == before
    found = find_weights(model)
    assert not found.weights
    (skipped,) = found.skipped
    assert skipped.name == "w"
    assert "without its zeros" in skipped.reason


def test_other_sums_and_picks_are_not_taken_for_it():
    model = view(
        "(int64[3] i, float[2,3] x) => (float[2,3] y) { a = CumSum(i, z)  b = Gather(t, a) "
        "w = Reshape(b, s)  y = MatMul(x, w) }",
        z=np.array(0),
        t=array(20),
        s=np.array([3, 1]),
    )
    assert not any(is_sparse(model, v) for node in model.nodes() for v in node.outputs)
    assert not densify(model)


def test_an_old_operator_set_is_refused():
    weight = thinned((96, 64), 0.5)
    model = product(weight, 10)
    with pytest.raises(PreconditionError, match="operator set 10"):
        Sparse(weight).emit(next(iter(find_weights(model))))
    Half.of(next(iter(find_weights(model)))).emit(next(iter(find_weights(model))))  # stays dense
