"""Codes out of bytes by nodes: both ways of arithmetic give what was packed, in both layouts."""

import numpy as np
import pytest

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.weights.forms.digits import unpacked, unpacked_fast
from onnx_compress.kernels.radix import PACKINGS

from graphs import array, run, view


def words_of(packing) -> np.ndarray:
    """All words of one byte; of more, the ends and some between."""
    last = packing.levels**packing.digits - 1
    if packing.width == 1:
        return np.arange(last + 1)
    drawn = np.random.default_rng(3).integers(0, last, 5000)
    edges = [place * by + more for place in packing.places for by in (1, 2) for more in (-1, 0, 1)]
    return np.unique([0, last, *drawn, *(each for each in edges if 0 <= each <= last)])


@pytest.mark.parametrize("levels", PACKINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("opset", [11, 13])
def test_every_word_comes_apart(levels, dtype, opset):
    packing = PACKINGS[levels]
    digits = np.stack([words_of(packing) // place % levels for place in packing.places], -1)
    side_by_side = packing.pack(digits.reshape(-1).astype(np.uint8))
    given = {"q": side_by_side[None], "p": side_by_side.T[None].copy()}
    kind = {"float32": "float", "float64": "double"}[dtype]
    model = view(
        f"""(uint8[1,N,W] q, uint8[1,W,N] p) => (double a, double b, {kind} c, {kind} d) {{
        a = Cast<to = 11>(q)  b = Cast<to = 11>(p)  c = Identity(w)  d = Identity(w) }}""",
        opset=opset,
        w=array(1, dtype=np.dtype(dtype)),
    )
    (q, _), (p, _) = model.graph.inputs
    readers = list(model.nodes())
    b = Builder(model, model.graph, "w")
    outputs = [
        unpacked(b, packing, q, -1),
        unpacked(b, packing, p, -2),
        unpacked_fast(b, packing, q, -1, dtype),
        unpacked_fast(b, packing, p, -2, dtype),
    ]
    for reader, output in zip(readers, outputs, strict=True):
        model.set_input(reader, 0, output)
    got = run(from_proto(to_proto(model)), **given)
    assert [each.dtype for each in got] == ["float64", "float64", dtype, dtype]
    for each, want in zip(got, [digits, digits.T, digits, digits.T], strict=True):
        np.testing.assert_array_equal(each[0], want)
