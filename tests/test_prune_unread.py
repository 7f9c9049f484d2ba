"""prune: channels that nobody reads go without a trace: no other number changes, no bias comes."""

import numpy as np
import pytest
from onnx import numpy_helper
from test_prune_channels import feeds, pruned

from onnx_compress import compress
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.passes.prune.structure import Request

from graphs import parsed, run

POWERS = """(float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, W1)
    b = Mul(a, a)
    c = MatMul(b, W2)
    y = Log(c)
}"""


def powers(read: int) -> tuple[dict[str, np.ndarray], object]:
    """Powers of which each output adds up a few, like those of Mel spectrograms."""
    rng = np.random.default_rng(3)
    first = rng.standard_normal((16, 64)) * np.geomspace(1e3, 1e-2, 64)
    bands = np.kron(np.eye(8), np.ones((read // 8, 1)))
    weights = {"W1": first, "W2": np.pad(bands, ((0, 64 - read), (0, 0)))}
    weights = {name: array.astype("f") for name, array in weights.items()}
    return weights, parsed(POWERS, **weights)


@pytest.mark.parametrize("read", [16, 32, 48])
def test_what_reads_them_stays_as_it_was(read):
    weights, proto = powers(read)
    model, _ = pruned(proto, Request(1 - read / 64, "channels"), feeds())
    small = to_proto(model)
    kept = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    assert "Add" not in [node.op_type for node in small.graph.node]
    np.testing.assert_array_equal(kept["W1"], weights["W1"][:, :read])
    np.testing.assert_array_equal(kept["W2"], weights["W2"][:read])
    (feed,) = feeds(1, seed=9)
    np.testing.assert_allclose(run(model, **feed)[0], run(from_proto(proto), **feed)[0], rtol=1e-5)


def test_few_bits_lose_no_more_after_it():
    _, proto = powers(32)
    errors = [
        compress(proto, passes, feeds(), measure=False).report.stages[-1].error
        for passes in ("quant(bits=4)", "prune(channels=0.5),quant(bits=4)")
    ]
    assert errors[1] <= 1.2 * errors[0]
