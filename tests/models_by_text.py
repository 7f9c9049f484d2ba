"""What several test files share: models from text, numbers, and a run of each technique on them.

Every file that draws numbers also imports `same_numbers_in_any_order`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import Result, compress
from onnx_compress.ir.graph import Model, from_proto, invariants, to_bytes, to_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.passes import (
    Context,
    Entry,
    Event,
    Outcome,
    Pass,
    Phase,
    Pipeline,
    Report,
    option,
)
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.verify import Budget, Reference

RNG = np.random.default_rng(7)
SEEDED = RNG.bit_generator.state

Feed = dict[str, np.ndarray]


def reset_numbers() -> None:
    """Start again; for files that draw numbers when they are imported."""
    RNG.bit_generator.state = SEEDED


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    reset_numbers()


def draw(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def build(body: str, opset: int = 17, ir: int = 8, **weights: np.ndarray) -> ModelProto:
    """A model from text, with these arrays for initializers."""
    model = parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def run(model: ModelProto | Path | bytes, feed: Feed, optimized: bool = True) -> list[np.ndarray]:
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model.SerializeToString() if isinstance(model, ModelProto) else model
    source = str(source) if isinstance(source, Path) else source
    return ort.InferenceSession(source, options).run(None, feed)


# ----------------------------------------------------------------------------------------- fold


def fold(proto: ModelProto) -> tuple[ModelProto, Report]:
    before = proto.SerializeToString()
    model = from_proto(proto)
    report = Fold().run(model, Context(targets.load("avx2"), {}))
    invariants.check(model)
    assert proto.SerializeToString() == before
    return to_proto(model), report


def ops(proto: ModelProto) -> list[str]:
    return sorted(node.op_type for node in proto.graph.node if node.op_type != "Constant")


def assert_same(before: ModelProto, after: ModelProto, feed: Feed) -> None:
    """Same interface, same outputs, loads, and nothing is left to fold."""
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    onnx.checker.check_model(after, full_check=True)
    outputs = (run(model, feed, optimized=False) for model in (before, after))
    for expected, actual in zip(*outputs, strict=True):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        if np.issubdtype(expected.dtype, np.floating):
            distance = np.linalg.norm(actual - expected)
            assert distance <= 1e-5 * np.linalg.norm(expected)
        else:
            assert np.array_equal(actual, expected)
    again, report = fold(after)
    assert not report.modified
    assert again.SerializeToString(deterministic=True) == after.SerializeToString(
        deterministic=True
    )


def norm(channels: int, shift: bool = True) -> dict[str, np.ndarray]:
    """Numbers of a BatchNormalization; without `shift` it only scales."""
    gamma, var = np.abs(draw(channels)) + 0.5, np.abs(draw(channels)) + 0.1
    beta, mean = (draw(channels), draw(channels)) if shift else (np.zeros(channels),) * 2
    return {
        "g": gamma.astype("float32"),
        "b": np.asarray(beta, "float32"),
        "m": np.asarray(mean, "float32"),
        "v": var.astype("float32"),
    }


# ---------------------------------------------------------------------------------------- quant

FAST = targets.load("avx512-vnni")
ROWS: Feed = {"x": draw(4, 96)}


def quant(
    proto: ModelProto, feed: Feed, target: targets.Target = FAST, **options: object
) -> tuple[ModelProto, Report]:
    before = proto.SerializeToString()
    model = from_proto(proto)
    report = Quant(**options).run(model, Context(target, feed))
    invariants.check(model)
    assert proto.SerializeToString() == before
    result = to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def error(before: ModelProto, after: ModelProto, feed: Feed) -> float:
    """The largest relative error of an output."""
    return max(
        float(np.linalg.norm(y - r) / np.linalg.norm(r))
        for r, y in zip(run(before, feed), run(after, feed), strict=True)
    )


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                nodes += all_nodes(attribute.g)
    return nodes


def all_ops(proto: ModelProto) -> set[str]:
    return {node.op_type for node in all_nodes(proto.graph)}


def reasons(report: Report) -> str:
    return "; ".join(f"{entry.subject}: {entry.text}" for entry in report.skipped)


def embedding() -> tuple[ModelProto, Feed]:
    text = "g (int64[3,5] i) => (float[?,?,?] y) { y = Gather (W, i) }"
    return build(text, W=draw(200, 64)), {"i": RNG.integers(0, 200, (3, 5))}


# ------------------------------------------------------------------------------------- compress

SAMPLES = {"x": draw(8, 96)}


def two_layers() -> ModelProto:
    return build(
        "g (float[N,96] x) => (float[N,32] y) "
        "{ i = Identity (x)  h = Gemm (i, W, b)  r = Relu (h)  y = MatMul (r, V) }",
        W=draw(96, 64),
        b=draw(64),
        V=draw(64, 32),
    )


def nothing_to_do() -> ModelProto:
    return build("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")


@pytest.fixture(name="source")
def source_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    path.write_bytes(two_layers().SerializeToString())
    return path


def quick(model: Any, *arguments: Any, **options: Any) -> Result:
    return compress(model, *arguments, measure=False, **options)


def left(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ------------------------------------------------------------------------------------ pipelines

FEEDS = [{"x": draw(2, 4)} for _ in range(4)]
DONE = Report((Entry("k", "changed"),), summary="done")


def doubler(documentation: int = 1000) -> ModelProto:
    """y = 2 x, with some text that passes may shorten."""
    proto = build(
        "g (float[N,4] x) => (float[N,4] y) { h = Mul (x, k)  y = Identity (h) }",
        k=np.float32([2]),
    )
    proto.doc_string = "." * documentation
    return proto


def scale(model: Model, factor: float) -> None:
    (value,) = model.graph.initializers
    model.set_constant(value, model.constant(value) * np.float32(factor))


@dataclass(frozen=True)
class Change(Pass):
    """Base of the passes of these tests: one method, any phase."""

    name: ClassVar[str] = "change"

    @property
    def phase(self) -> Phase:
        return Phase.ENCODE

    def run(self, model: Model, context: Context) -> Report:
        self.apply(model)
        return DONE

    def apply(self, model: Model) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Scale(Change):
    name: ClassVar[str] = "scale"
    factor: float = option(1.0, "of the output")

    def apply(self, model: Model) -> None:
        scale(model, self.factor)


class DropsNode(Change):
    def apply(self, model: Model) -> None:
        del model.graph.nodes[next(iter(model.graph.nodes))]


def run_passes(
    *passes: Pass,
    max_error: float = 0.15,
    keep_going: bool = False,
    proto: ModelProto | None = None,
    events: list[Event] | None = None,
) -> Outcome:
    proto = proto or doubler()
    before = proto.SerializeToString()
    model = from_proto(proto)
    bytes_before = to_bytes(model)
    context = Context(
        targets.load("avx2"),
        FEEDS[0],
        FEEDS,
        emit=events.append if events is not None else (lambda _: None),
    )
    reference = Reference(Session(model), FEEDS, drawn=True)
    try:
        return Pipeline(passes).run_checked(
            model, context, reference, Budget(max_error), keep_going
        )
    finally:
        assert proto.SerializeToString() == before
        assert to_bytes(model) == bytes_before


def factor(outcome: Outcome) -> float:
    """What the model multiplies by: 2 at first."""
    return float(Session(outcome.model).run({"x": np.ones((1, 4), "float32")})[0][0, 0])
