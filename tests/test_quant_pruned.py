"""prune(sparsity), then quant: masks are kept, and codes are chosen on them."""

import numpy as np
import pytest

from onnx_compress.ir.graph import from_proto, invariants
from onnx_compress.ir.weights.densify import is_sparse
from onnx_compress.ir.weights.effective import effective
from onnx_compress.passes import Context, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant.pruned import mask_of, on_mask
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.loss import loss
from onnx_compress.passes.solvers.rounding import mse_clip

from graphs import parsed, run


def layers():
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((96, 48)).astype("f") * np.logspace(-1, 1, 48, dtype="f")
    proto = parsed(
        "(float[N,48] x) => (float[N,40] y) { a = MatMul(x, A) b = Relu(a) y = MatMul(b, B) }",
        A=rng.standard_normal((48, 96)).astype("f") / 7,
        B=rng.standard_normal((96, 40)).astype("f") / 7,
    )
    data = [{"x": (rng.standard_normal((16, 96)) @ mix).astype("f") / 10} for _ in range(24)]
    return proto, tuple(data[:16]), data[16:]


def after(proto, fit, text):
    model = from_proto(proto)
    context = Context(targets.load("avx2"), fit[0] if fit else {"x": np.ones((4, 48), "f")}, fit)
    for each in Pipeline.parse(text).passes:
        each.run(model, context)
        invariants.check(model)
    return model


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("bits", [16, 8, 6, 4, 3, 2, 1.58])
def test_zeros_stay_zero(bits, fitted):
    proto, fit, judge = layers()
    fit = fit if fitted else ()
    pruned = after(proto, fit, "prune(sparsity=0.5)")
    small = after(proto, fit, f"prune(sparsity=0.5),quant(bits={bits})")
    for one, two in zip(effective(pruned), effective(small), strict=True):
        masked, coded = one.numbers() == 0, two.numbers()
        if coded.shape != masked.shape:
            coded = coded.T
        assert masked.mean() == 0.5
        assert not coded[masked].any()
    x = judge[0]["x"]
    assert np.isfinite(run(small, x=x)[0]).all()


def test_a_large_pruned_weight_is_smaller_in_eight_bits_than_a_dense_one():
    rng = np.random.default_rng(0)
    proto = parsed(
        "(float[4,128] x) => (float[4,160] y) { y = MatMul(x, A) }",
        A=rng.standard_normal((128, 160)).astype("f"),
    )
    from onnx_compress.ir.graph import to_proto

    def size(text):
        model = from_proto(proto)
        context = Context(targets.load("avx2"), {"x": np.ones((4, 128), "f")})
        for each in Pipeline.parse(text).passes:
            each.run(model, context)
        return len(to_proto(model).SerializeToString())

    assert size("prune(sparsity=0.75),quant(bits=8)") < 0.6 * size("quant(bits=8)")


def test_excluded_weights_stay_without_their_zeros():
    rng = np.random.default_rng(0)
    proto = parsed(
        "(float[4,96] x) => (float[4,96] y) { a = MatMul(x, A) y = MatMul(a, B) }",
        A=rng.standard_normal((96, 96)).astype("f"),
        B=rng.standard_normal((96, 96)).astype("f"),
    )
    model = from_proto(proto)
    context = Context(targets.load("avx2"), {"x": np.ones((4, 96), "f")}, exclude=("B",))
    plain = Context(targets.load("avx2"), {"x": np.ones((4, 96), "f")})
    one, two = Pipeline.parse("prune(sparsity=0.5),quant(bits=8)").passes
    one.run(model, plain)
    two.run(model, context)
    product = model.graph.outputs[0][0].producer
    assert is_sparse(model, product.input(1))
    again = Pipeline.parse("prune(sparsity=0.6)").passes[0]
    again.run(model, context)
    assert is_sparse(model, product.input(1))


def test_codes_on_a_mask_are_better_than_codes_masked():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 40)) @ rng.standard_normal((40, 40))
    h = x.T @ x / 200
    weight = rng.standard_normal((24, 40))
    kept = rng.uniform(size=weight.shape) < 0.5
    aim = on_mask(weight[None], h[None], kept[None])[0]
    grid = mse_clip(aim, 4, 0, True, None)
    codes, fine = descend(aim, h, grid, kept=kept)
    found = fine.decode(codes)
    assert not found[~kept].any()
    plain, coarse = descend(weight, h, grid)
    assert loss(weight, found, h) < 0.5 * loss(weight, np.where(kept, coarse.decode(plain), 0), h)


def test_a_mask_needs_a_zero():
    weight, h = np.ones((2, 4)), np.eye(4)
    grid = mse_clip(weight, 4, 0, True, None)
    shifted = type(grid)(grid.scale, grid.zero + 0.5, grid.bits, grid.group, grid.columns)
    with pytest.raises(ValueError, match="zero"):
        descend(weight, h, shifted, kept=weight > 2)


def test_a_few_zeros_are_no_mask():
    assert mask_of(np.where(np.arange(100).reshape(1, 10, 10) < 10, 0.0, 1.0)) is None
    assert mask_of(np.where(np.arange(100).reshape(1, 10, 10) < 30, 0.0, 1.0)) is not None
