"""Models that are written differently, for the tests of mutations."""

import numpy as np
from onnx import ModelProto, numpy_helper

from onnx_compress.testing import MUTATIONS, models

from models_by_text import build, draw

DRAWN = models()


def mutated(name: str, model: ModelProto, seed: int = 0) -> ModelProto | None:
    return MUTATIONS[name](model, np.random.default_rng(seed))


def everything() -> ModelProto:
    """Something for each mutation."""
    return build(
        "g (float[N,4] x) => (float[N,3] y, float[N,4] z) {"
        " a = Gemm (x, W, b)  h = MatMul (x, V)  k = Mul (h, s)  z = Add (k, s)  y = Relu (a) }",
        W=draw(4, 3),
        b=draw(3),
        V=draw(4, 4),
        s=draw(4),
    )


def stored(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
