"""profile(): what is fast on the machine at hand, as a target file.

One MatMul of columns x rows with M rows of activations, one thread, the coded forms and float32 in
turn; the medians of the paired ratios are the rows of the file. What is not measured, convolutions
and products of fewer bits, is taken from the target that comes with the package.
"""

import datetime
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model, clone, from_proto
from onnx_compress.ir.runtime import Session, compare_speed, versions
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import affine as affine_form
from onnx_compress.kernels import affine
from onnx_compress.passes import Event
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore

FORMS = ("dynamic", "dequantize")
SIZES = (
    *((size, size) for size in (32, 64, 128, 256, 512, 1024, 2048)),
    *((768, 3072), (3072, 768), (1280, 1000), (4096, 4096)),
)
ROWS = (1, 16, 128)


def profile(seconds: float = 0.5, on_event: Callable[[Event], None] = ignore) -> str:
    """The text of a target file, for `--target FILE.toml`, measured on this machine.

    Takes about `seconds` for each of 33 products. Raises OptionError.
    """
    if not seconds > 0:
        raise OptionError(f"--seconds cannot be {seconds}", "half of one is enough")
    speed: dict[str, list[str]] = {form: [] for form in FORMS}
    for done, (columns, rows) in enumerate(SIZES):
        on_event(Event("progress", "sizes of products", done, len(SIZES)))
        for form, ratios in _ratios(columns, rows, seconds).items():
            figures = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            speed[form].append(f"    [{columns}, {rows}, {figures}],")
    near = targets.host()
    made = f"{platform.processor() or platform.machine()}, onnxruntime {versions()['onnxruntime']}"
    lines = [
        f"# Measured with onnx-compress profile on {datetime.date.today()}, one thread.",
        f"description = {json.dumps(made)}",
        f"features = {json.dumps(list(near.features))}",
        "measured = true",
        f"channel_multiple = {near.channel_multiple}",
        f"saturates = {json.dumps(saturates())}",
        "maximum_opset = 0",
        f"# Not measured, of {near.name}: the three below, and the tables at the end.",
        f"conversion = {near.conversion}",
        f"motion = {near.motion}",
        f"start = {near.start}",
        "",
        "# columns, rows, then time of float32 over time of the form at M = 1, 16, 128",
    ]
    for form, rows_of_form in speed.items():
        lines += [f"[speed.{form}]", "product = [", *rows_of_form, "]"]
    kept = {form: table for form, table in near.speed.items() if form not in speed}
    for kind, tables in (("product", kept), ("convolution", near.convolutions)):
        for form, table in tables.items():
            lines += [
                f"[speed.{form}]",
                f"{kind} = [",
                *(f"    {list(row)}," for row in table),
                "]",
            ]
    return "\n".join(lines) + "\n"


def _ratios(columns: int, rows: int, seconds: float) -> dict[str, list[float]]:
    """For each form, how many times faster than float32 it is at each number of rows."""
    model = product(columns, rows)
    sessions = [Session(model), *(Session(coded(model, form)) for form in FORMS)]
    table = []
    for m in ROWS:
        feed = {"x": np.random.default_rng(m).standard_normal((m, columns), np.float32)}
        table.append(compare_speed(sessions, [feed], seconds).ratio[1:])
    return {form: [row[at] for row in table] for at, form in enumerate(FORMS)}


def product(columns: int, rows: int) -> Model:
    """y = MatMul(x, W) with random weights."""
    rng = np.random.default_rng(columns * 31 + rows)
    weight = (rng.standard_normal((columns, rows)) / columns**0.5).astype(np.float32)
    return _model("MatMul", TensorProto.FLOAT, weight, TensorProto.FLOAT)


def coded(model: Model, reader: str) -> Model:
    """The same product with int8 weights, read in this way."""
    out = clone(model)
    for weight in find_weights(out):
        array = weight.array()
        scale = affine.symmetric_scale(array, weight.channel_axes, 8)
        codes = affine.quantize(array, scale, 8)
        affine_form(weight, codes, scale, dict.fromkeys(weight.uses, reader)).emit(weight)
    return out


def saturates() -> bool:
    """Whether sums of two products of bytes do not fit the 16 bits that they are kept in."""
    columns, rows = 64, 16
    weight = np.full((columns, rows), 127, np.int8)
    session = Session(_model("MatMulInteger", TensorProto.UINT8, weight, TensorProto.INT32))
    (found,) = session.run({"x": np.full((16, columns), 255, np.uint8)})
    return bool((found != 255 * 127 * columns).any())


def _model(op: str, taken: int, weight: Any, given: int) -> Model:
    columns, rows = weight.shape
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", taken, ["m", columns])],
        [helper.make_tensor_value_info("y", given, ["m", rows])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 21)]
    return from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
