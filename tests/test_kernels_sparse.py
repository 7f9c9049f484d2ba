"""Sparse weights, against scipy."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.kernels import sparse

from kernel_paths import every_path


def close(out, x, dense):
    wanted = x.astype(np.float64) @ dense.T.astype(np.float64)
    reach = np.abs(x).astype(np.float64) @ np.abs(dense.T)
    assert out.shape == wanted.shape
    assert (np.abs(out - wanted) <= 1e-5 * reach + 1e-12).all()


@every_path
@settings(max_examples=40)
@given(
    st.sampled_from([(1, 1), (1, 4), (3, 2), (16, 1)]),
    st.tuples(st.sampled_from([0, 1, 2, 33, 70]), st.integers(1, 9), st.integers(1, 300)),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.integers(1, 3),
)
def test_rows_of_values_and_of_blocks(path, block, size, density, threads):
    rows, outs, columns = size[0], size[1] * block[0], size[2] * block[1]
    rng = np.random.default_rng(size)
    keep = np.kron(rng.random((size[1], size[2])) < density, np.ones(block))
    dense = (rng.standard_normal((outs, columns)) * keep).astype(np.float32)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    if block == (1, 1):
        m = scipy.sparse.csr_matrix(dense)
        w = sparse.csr(m.indptr, m.indices, m.data, columns, path=path)
    else:
        m = scipy.sparse.csr_matrix(dense).tobsr(block)
        w = sparse.bsr(m.indptr, m.indices, m.data, columns, path=path)
    out = sparse.matmul_sparse(x, w, threads=threads)
    close(out, x, dense)
    np.testing.assert_array_equal(sparse.matmul_sparse(x, w), out)


@every_path
@given(st.sampled_from([(2, 4), (1, 4), (4, 8)]), st.integers(0, 40), st.integers(1, 60))
def test_n_of_m(path, pattern, rows, groups):
    n, m = pattern
    rng = np.random.default_rng(groups)
    order = rng.random((5, groups, m)).argsort(2)[..., :n]
    values = rng.standard_normal((5, groups, n)).astype(np.float32)
    dense = np.zeros((5, groups, m), np.float32)
    np.put_along_axis(dense, order, values, 2)
    x = rng.standard_normal((rows, groups * m)).astype(np.float32)
    w = sparse.n_of_m(values.reshape(5, -1), order.reshape(5, -1), m, groups * m, path=path)
    close(sparse.matmul_sparse(x, w), x, dense.reshape(5, -1))


@every_path
def test_places_may_repeat_and_be_out_of_order(path):
    w = sparse.csr([0, 3, 3], [5, 0, 5], [1.0, 2.0, 3.0], 6, path=path)
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 6)
    assert sparse.matmul_sparse(x, w).tolist() == [[[20, 0], [56, 0]]]


@pytest.mark.parametrize(
    ("indptr", "indices"), [([0, 1], [0, 1]), ([0, 2, 1], [0]), ([1, 1], [0]), ([0, 1], [9])]
)
def test_what_does_not_fit_is_refused(indptr, indices):
    with pytest.raises(ValueError):
        sparse.csr(indptr, indices, np.ones(1), 6)


def test_shapes_and_positions_are_checked():
    w = sparse.csr([0, 1], [0], [1.0], 6)
    with pytest.raises(ValueError, match="6 columns"):
        sparse.matmul_sparse(np.zeros((1, 5), np.float32), w)
    with pytest.raises(ValueError, match="outside its group"):
        sparse.n_of_m(np.ones((1, 2)), np.array([[0, 4]]), 4, 4)
    with pytest.raises(ValueError, match="columns"):
        sparse.n_of_m(np.ones((1, 2)), np.array([[0, 1]]), 4, 6)
