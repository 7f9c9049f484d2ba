"""How fast the runtime is with a coded matrix product, against float32.

    python -m onnx_compress.bench.forms            # rows for a file in passes/targets

One MatMul of columns x rows with M rows of activations, one thread, the forms and float32 in turn.
"""

import argparse

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import clone, from_proto
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Session, compare_speed
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import affine as affine_form
from onnx_compress.kernels import affine

FORMS = ("dynamic", "dequantize")
SIZES: tuple[tuple[int, int], ...] = (
    (32, 32),
    (64, 64),
    (128, 128),
    (256, 256),
    (512, 512),
    (1024, 1024),
    (2048, 2048),
)
SIZES += ((768, 3072), (3072, 768), (1280, 1000), (4096, 4096))
ROWS = (1, 16, 128)


def product(columns: int, rows: int) -> Model:
    """y = MatMul(x, W) with random weights."""
    rng = np.random.default_rng(columns * 31 + rows)
    weight = (rng.standard_normal((columns, rows)) / columns**0.5).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", rows])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 21)]
    return from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def coded(model: Model, reader: str) -> Model:
    """The same product with int8 weights, read in this way."""
    out = clone(model)
    for weight in find_weights(out):
        array = weight.array()
        scale = affine.symmetric_scale(array, weight.channel_axes, 8)
        codes = affine.quantize(array, scale, 8)
        affine_form(weight, codes, scale, dict.fromkeys(weight.uses, reader)).emit(weight)
    return out


def main() -> None:
    """Print one row for each size: M = 1, 16, 128."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement")
    arguments = parser.parse_args()
    measured: dict[str, list[str]] = {form: [] for form in FORMS}
    for columns, rows in SIZES:
        model = product(columns, rows)
        sessions = [Session(model), *(Session(coded(model, form)) for form in FORMS)]
        ratios: list[list[float]] = []
        for m in ROWS:
            feed = {"x": np.random.default_rng(m).standard_normal((m, columns), np.float32)}
            ratios.append(list(compare_speed(sessions, [feed], arguments.seconds).ratio[1:]))
        for at, form in enumerate(FORMS):
            figures = ", ".join(f"{row[at]:.2f}" for row in ratios)
            measured[form].append(f"    [{columns}, {rows}, {figures}],")
    for form, lines in measured.items():
        print(f"[speed.{form}]\nproduct = [", *lines, "]", sep="\n")


if __name__ == "__main__":
    main()
