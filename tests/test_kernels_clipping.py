"""The compiled search for the grid that rounds best, against plain numpy, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.kernels import clipping


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 33),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_few_and_many_numbers_take_the_same_grid(rows, columns, group, bits, alike, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns)).astype(np.float32)
    d = rng.random((1 if alike else rows, columns)).astype(np.float32)
    groups = -(-columns // group)
    scale = rng.uniform(0.01, 1, (7, groups, rows)).astype(np.float32)
    scale[1] = scale[0]  # of equal ones the first
    zero = rng.integers(0, 1 << bits, scale.shape).astype(np.float32)
    zero[1] = zero[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clipping, "worth", lambda numbers: False)
        one = clipping.cheapest(w, d, scale, zero, group, (1 << bits) - 1)
        patch.setattr(clipping, "worth", lambda numbers: True)
        other = clipping.cheapest(w, d, scale, zero, group, (1 << bits) - 1)
    assert np.array_equal(one, other)
    assert not (one == 1).any()
    assert one.shape == (rows, groups)


def test_the_grid_with_the_least_sum_is_found():
    w = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    scale = np.array([0.5, 2 / 15, 0.01], np.float32)[:, None, None]
    zero = np.full((3, 1, 1), 8, np.float32)
    found = clipping.cheapest(w, np.ones((1, 64), np.float32), scale, zero, 64, 15)
    assert found.tolist() == [[1]]
