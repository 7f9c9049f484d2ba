"""The numbers of a packed weight: how data choose them."""

import numpy as np

from onnx_compress.passes.quant.data import Seen
from onnx_compress.passes.quant.numbers import choose
from onnx_compress.passes.quant.setting import Setting
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.loss import loss
from onnx_compress.passes.solvers.rounding import mse_clip
from onnx_compress.passes.statistics import Moments
from onnx_compress.passes.statistics.gram import Gram

ROWS, COLUMNS, BLOCK = 64, 192, 32


def inputs(seed: int = 0):
    """Strongly correlated, as those of convolutions are: most of it in few directions."""
    rng = np.random.default_rng(seed)
    few = rng.standard_normal((2000, 12)) @ rng.standard_normal((12, COLUMNS)) / 3.5
    return (few + 0.1 * rng.standard_normal((2000, COLUMNS))).astype(np.float32)


def seen(x):
    gram = Gram(COLUMNS, COLUMNS)
    gram.add(x)
    return Seen(Moments(gram.total[None] / gram.rows, gram.rows, tuple(gram.packed())))


def chosen(weight, data):
    found = choose(weight[None], Setting(4, BLOCK, True, 1), data, False, BLOCK)
    scale, zero = found.scale[0], found.zero.astype(np.float64)
    return Grid(scale.astype(np.float64), zero, 4, BLOCK, COLUMNS).decode(found.codes[0])


def test_codes_begin_where_gptq_leaves_them():
    """Descent alone ends in a minimum that loses much more on such inputs."""
    weight, x = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)), inputs()
    data = seen(x)
    (h,) = data.damped
    grid = mse_clip(weight, 4, BLOCK, importance=np.diagonal(h))
    codes, fitted = descend(weight, h, grid, sweeps=4, refit=True)
    alone = loss(weight, fitted.decode(codes), h)
    assert loss(weight, chosen(weight, data), h) < alone / 1.2


def test_inputs_too_large_to_be_squared_leave_the_nearest_codes():
    weight = np.random.default_rng(1).standard_normal((ROWS, COLUMNS))
    x = inputs()
    x[:, 3] *= 1e25
    with np.errstate(all="ignore"):
        near = chosen(weight, seen(x))
    assert np.isfinite(near).all()
    assert np.abs(near - weight).max() < np.abs(weight).max() / 4


def test_more_columns_than_are_looked_at_together_go_in_parts():
    rows, columns = 24, 600
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((1, rows, columns)).astype(np.float32)
    x = (rng.standard_normal((900, 40)) @ rng.standard_normal((40, columns))).astype(np.float32)
    gram = Gram(columns, 256)
    gram.add(x)
    wide = Seen(Moments(gram.total[None] / gram.rows, gram.rows, tuple(gram.packed())))
    assert [place.start for place, _ in wide.parts] == [0, 256, 512]
    found = choose(weight, Setting(4, BLOCK, True, 1), wide, False, BLOCK)
    near = choose(weight, Setting(4, BLOCK, True, 1), None, False, BLOCK)
    for place, part in wide.parts:
        groups = slice(place.start // BLOCK, -(-place.stop // BLOCK))
        alone = choose(weight[..., place], Setting(4, BLOCK, True, 1), part, False, BLOCK)
        assert np.array_equal(found.codes[..., place], alone.codes)
        assert np.array_equal(found.scale[..., groups], alone.scale)
        lost = [
            loss(weight[0, :, place], decoded(each, columns)[:, place], part.damped[0])
            for each in (found, near)
        ]
        assert lost[0] < lost[1] / 2
    # blocks of 48 would have columns of two parts: the data are of no use
    odd = choose(weight, Setting(4, 48, True, 1), wide, False, 48)
    assert np.array_equal(odd.codes, choose(weight, Setting(4, 48, True, 1), None, False, 48).codes)


def decoded(found, columns):
    grid = Grid(found.scale[0].astype(np.float64), found.zero.astype(np.float64), 4, BLOCK, columns)
    return grid.decode(found.codes[0])
