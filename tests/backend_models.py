"""The models of onnx's own backend tests, with inputs that ONNX Runtime takes, and its outputs."""

import contextlib
import ctypes
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

DATA = Path(onnx.backend.test.__file__).with_name("data")
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator", "light")

# operators whose outputs are compared by type and shape, beside Dropout that is told to train
RANDOM = frozenset(
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
# types that have no numpy type of their own: handed over as bytes
BYTES = frozenset(
    getattr(TensorProto, name)
    for name in """BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0
    INT4 UINT4 INT2 UINT2 FLOAT4E2M1""".split()
    if hasattr(TensorProto, name)
)
_PARSED = {
    "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
    "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
    "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
    "map_type": (onnx.MapProto, numpy_helper.to_dict),
}


@dataclass(frozen=True)
class Case:
    """A model; `given` are values for its inputs, None where they have to be drawn."""

    name: str
    proto: ModelProto
    given: tuple[Any, ...] | None

    @property
    def random(self) -> bool:
        return any(
            node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
            for node in nodes(self.proto.graph)
        )


@cache
def cases() -> tuple[Case, ...]:
    """All models, in an order that does not change."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            generated = collect_testcases(None)
    finally:
        np.random.set_state(state)
    made = [Case(case.name, case.model, tuple(case.data_sets[0][0])) for case in generated]
    return (*sorted(made, key=lambda case: case.name), *_files())


def _files() -> Iterator[Case]:
    for folder in FOLDERS:
        for path in sorted([*DATA.glob(f"{folder}/*/model.onnx"), *DATA.glob(f"{folder}/*.onnx")]):
            proto = onnx.load(path)
            data = sorted(path.parent.glob("test_data_set_*"))
            given = tuple(_read(data[0], proto)) if data else None
            yield Case(path.parent.name if data else path.stem, proto, given)


def _read(folder: Path, proto: ModelProto) -> Iterator[Any]:
    for at, info in enumerate(required(proto)):
        path = folder / f"input_{at}.pb"
        if path.exists():
            kind, convert = _PARSED[info.type.WhichOneof("value")]
            yield convert(kind.FromString(path.read_bytes()))


def required(proto: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be given."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [info for info in proto.graph.input if info.name not in weights]


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of all bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from nodes(body)


def sample() -> list[Case]:
    """The cases with an operator, a type or a kind of attribute that none before had and loaded."""
    seen: set[Any] = set()
    out = []
    for case in cases():
        found: set[Any] = {(node.domain, node.op_type) for node in nodes(case.proto.graph)}
        found |= {a.type for node in nodes(case.proto.graph) for a in node.attribute}
        infos = (*case.proto.graph.input, *case.proto.graph.output)
        found |= {(i.type.WhichOneof("value"), i.type.tensor_type.elem_type) for i in infos}
        if not found <= seen or case.name == "light_squeezenet":  # one whose inputs are drawn
            out.append(case)
            with contextlib.suppress(Exception):
                session(case.proto.SerializeToString(), optimize=False)
                seen |= found
    return out


# ----------------------------------------------------------------------------------- running


def session(model: bytes, optimize: bool) -> onnxruntime.InferenceSession:
    """A model in the runtime, in one thread. Raises whatever that raises."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ports(loaded: onnxruntime.InferenceSession) -> list[tuple[str, str, list[Any]]]:
    """The interface as the runtime tells it."""
    return [(p.name, p.type, p.shape) for p in (*loaded.get_inputs(), *loaded.get_outputs())]


def feed(case: Case) -> dict[str, Any]:
    """Inputs as the runtime takes them; only for a case that has some."""
    names = [info.name for info in required(case.proto)]
    return {name: _given(value) for name, value in zip(names, case.given or (), strict=False)}


def _given(value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, list):
        return [_given(entry) for entry in value]
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    if array.dtype.kind in "OUS" or helper.np_dtype_to_tensor_dtype(array.dtype) not in BYTES:
        return array
    tensor = numpy_helper.from_array(array)
    kind = tensor.data_type
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), kind)
    ctypes.memmove(out.data_ptr(), tensor.raw_data, len(tensor.raw_data))
    return out


def outputs(loaded: onnxruntime.InferenceSession, given: dict[str, Any]) -> list[Any]:
    """What a model gives; tensors without a numpy type as (type, shape, bytes)."""
    plain = {f"tensor({name})" for name in "float double float16 bool string".split()}
    plain |= {f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    kinds = {port.type for port in loaded.get_outputs()}
    if kinds <= plain or any("(tensor" in kind or "map" in kind for kind in kinds):
        return loaded.run(None, given)
    make = onnxruntime.OrtValue.ortvalue_from_numpy
    values = {n: make(v) if isinstance(v, np.ndarray) else v for n, v in given.items()}
    return [_bytes(value) for value in loaded.run_with_ort_values(None, values)]


def _bytes(value: onnxruntime.OrtValue) -> Any:
    if value.element_type() not in BYTES:
        return value.numpy()
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return value.element_type(), tuple(value.shape()), data


def same(one: Any, other: Any, loose: bool = False) -> bool:
    """Whether two outputs are equal bit for bit, all NaN being one; if `loose`, alike in kind."""
    if isinstance(one, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(a, b, loose) for a, b in pairs)
    if not isinstance(one, np.ndarray):
        return loose or (type(one) is type(other) and one == other)
    if type(other) is not np.ndarray or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if loose or one.dtype.kind in "OU":
        return loose or one.tolist() == other.tolist()
    if one.dtype.kind == "f":
        nan = np.isnan(one)
        if not np.array_equal(nan, np.isnan(other)):
            return False
        one, other = np.where(nan, 0, one), np.where(nan, 0, other)
    return one.tobytes() == other.tobytes()
