"""profile(): what is fast on the machine at hand, as a target file.

One MatMul of columns x rows with M rows of activations, one thread, the coded forms and float32 in
turn; the medians of the paired ratios are the rows of the file. That of `static` is given bytes and
gives bytes: what turns them is counted apart. What is not measured, convolutions and products of
fewer bits, is taken from the target that comes with the package.
"""

import datetime
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model, clone, from_proto, to_proto
from onnx_compress.ir.runtime import Feed, Session, compare_speed, versions
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import affine as affine_form
from onnx_compress.kernels import affine
from onnx_compress.passes import Event
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore

FORMS = ("dynamic", "dequantize", "static")
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
        f"# Not measured, of {near.name}: the four below, operators, and the tables at the end.",
        f"conversion = {near.conversion}",
        f"motion = {near.motion}",
        f"reading = {near.reading}",
        f"start = {near.start}",
        "",
        "[operators]",
        *(f"{op} = {price}" for op, price in near.operators.items()),
        "",
        "# columns, rows, then time of float32 over time of the form at M = 1, 16, 128",
    ]
    kept = {f: _rows(table) for f, table in near.speed.items() if f not in speed}
    convolutions = {form: _rows(table) for form, table in near.convolutions.items()}
    for form in dict.fromkeys([*speed, *kept, *convolutions]):
        lines.append(f"[speed.{form}]")
        for kind, tables in (("product", {**speed, **kept}), ("convolution", convolutions)):
            if form in tables:
                lines += [f"{kind} = [", *tables[form], "]"]
    return "\n".join(lines) + "\n"


def _rows(table: Sequence[Sequence[float]]) -> list[str]:
    return [f"    {list(row)}," for row in table]


@dataclass(frozen=True)
class _Fed:
    """A session with inputs of its own."""

    session: Session
    feeds: Mapping[int, Feed]  # by the number of rows

    def run(self, feed: Feed) -> list[Any]:
        """On the input of as many rows."""
        return self.session.run(self._own(feed))

    def call(self, feed: Feed) -> list[Any]:
        """Likewise, to be timed."""
        return self.session.call(self._own(feed))

    def _own(self, feed: Feed) -> Feed:
        return self.feeds[len(feed["x"])]


def _ratios(columns: int, rows: int, seconds: float) -> dict[str, list[float]]:
    """For each form, how many times faster than float32 it is at each number of rows."""
    model = product(columns, rows)
    rng = np.random.default_rng(columns)
    floats = {m: {"x": rng.standard_normal((m, columns), np.float32)} for m in ROWS}
    codes = {m: {"x": rng.integers(0, 256, (m, columns), np.uint8)} for m in ROWS}
    coded_forms = [form for form in FORMS if form != "static"]
    timed = [
        _Fed(Session(model), floats),
        *(_Fed(Session(coded(model, form)), floats) for form in coded_forms),
        _Fed(Session(static(model)), codes),
    ]
    table = [compare_speed(timed, [floats[m]], seconds).ratio[1:] for m in ROWS]
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


def static(model: Model) -> Model:
    """The same product of bytes, which gives bytes."""
    out = from_proto(_around(to_proto(model), np.float32(0.02), np.uint8(128)))
    return coded(out, "static")


def _around(proto: ModelProto, scale: Any, zero: Any) -> ModelProto:
    """A model of one node with bytes for its input and output."""
    graph = proto.graph
    (node,) = graph.node
    graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in ((scale, "s"), (zero, "z")))
    node.input[0], node.output[0] = "x.d", "y.f"
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["x", "s", "z"], ["x.d"]))
    graph.node.append(helper.make_node("QuantizeLinear", ["y.f", "s", "z"], ["y"]))
    for info in (*graph.input, *graph.output):
        info.type.tensor_type.elem_type = TensorProto.UINT8
    return proto


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
