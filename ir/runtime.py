"""Running models: the only place that knows ONNX Runtime.

A model of any size becomes a session: small ones from memory, large ones through a file in a
temporary folder, with the weights beside it, so that no message passes 2 GB.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.tensors import Array
from onnx_compress.ir.graph.view import Value

Feed = Mapping[str, Array]

_IN_MEMORY = 32 << 20  # bytes of a model that is handed over in memory

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{f"tensor({s}int{b})": f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Port:
    """An input or output as the runtime sees it. `shape`: int, name or None for each axis."""

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]


class Session:
    """One loaded model on the CPU."""

    def __init__(
        self,
        model: Model | Path,
        threads: int = 1,
        optimize: bool = True,
        profile: Path | None = None,
    ) -> None:
        """Load a model. Raises InvalidError with the runtime's own words.

        `profile`: a folder to write what is run to, see `executed`.
        """
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # the arena keeps the peak of loading for ever
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimize:
            level = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = level.ORT_DISABLE_ALL
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile / "profile")
        try:
            if isinstance(model, Path):
                self._session = _open(onnxruntime, str(model), options)
            elif files.file_size(model) <= _IN_MEMORY:
                self._session = _open(onnxruntime, files.to_bytes(model), options)
            else:
                with tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
                    path = Path(folder) / "model.onnx"
                    files.save(model, path, external=True)
                    self._session = _open(onnxruntime, str(path), options)
        except Exception as error:
            if isinstance(error, OSError | MemoryError | InvalidError):
                raise
            reason = str(error).replace("\n", " ")[:400]
            hint = "ONNX Runtime refuses the model; see its message"
            raise InvalidError(f"it does not load: {reason}", hint) from error
        self.inputs = [_port(port) for port in self._session.get_inputs()]
        self.outputs = [_port(port) for port in self._session.get_outputs()]

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in their order. Raises InvalidError with the runtime's own words."""
        try:
            results: list[Any] = self._session.run(None, dict(feed))
        except Exception as error:
            reason = str(error).replace("\n", " ")[:400]
            raise InvalidError(f"it does not run: {reason}") from error
        return results


def executed(model: Model, feed: Feed) -> list[tuple[str, str]]:
    """Operator and name of every node that the runtime runs, after its own optimization.

    What it folded when it loaded the model, or fused into another node, is not among them.
    """
    with tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
        session = Session(model, profile=Path(folder))
        session.run(feed)
        events = json.loads(Path(session._session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    return [
        (event.get("args", {}).get("op_name", ""), event["name"].removesuffix(suffix))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]


def _open(onnxruntime: Any, source: str | bytes, options: Any) -> Any:
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _port(port: Any) -> Port:
    kind = _DTYPES.get(port.type)
    shape = tuple(dim if isinstance(dim, int | str) else None for dim in port.shape or ())
    return Port(port.name, np.dtype(kind) if kind else None, shape)


def observe(
    model: Model, feed: Feed, values: Sequence[Value], operators: Sequence[str]
) -> dict[Value, list[Array]]:
    """What operators such as Shape or ReduceMax give for values of the main graph, in one run.

    The values themselves are not given out, so that no more memory is held than in any run.
    Values elsewhere are left out. Raises InvalidError where the model does not run.
    """
    probe = clone(model)
    named = {value.name: value for value in values}
    found = [v for node in probe.graph.nodes for v in node.outputs if v and v.name in named]
    found += [value for value in probe.inputs() if value.name in named]
    for value in found:
        for op in operators:
            keep = 0 if op.startswith("Reduce") else None
            seen = probe.add_node(probe.graph, op, [value], keepdims=keep)
            probe.graph.outputs.append((seen, None))
    results = Session(probe, optimize=False).run(feed)[len(model.graph.outputs) :]
    width = len(operators)
    return {
        named[value.name]: results[at * width : (at + 1) * width] for at, value in enumerate(found)
    }


def versions() -> dict[str, str]:
    """Version of the runtime, for reports."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and the ratio of the first to each: above 1 is faster.

    `spread`: quartiles of the paired ratio.
    """

    milliseconds: tuple[float, ...]
    ratio: tuple[float, ...]
    spread: tuple[tuple[float, float], ...]


def compare_speed(
    sessions: Sequence[Session], feeds: Sequence[Feed], seconds: float = 3.0
) -> Timing:
    """Time sessions against each other: in turn on the same inputs, medians of the pairs.

    Takes about `seconds` in all, at least 5 and at most 200 rounds.
    """
    for session in sessions:
        session.run(feeds[0])
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < 200 and (len(rounds) < 5 or time.perf_counter() < end):
        feed = feeds[len(rounds) % len(feeds)]
        took = []
        for session in sessions:
            start = time.perf_counter()
            session.run(feed)
            took.append(time.perf_counter() - start)
        rounds.append(took)
    table = np.array(rounds)
    ratios = table[:, :1] / table
    return Timing(
        tuple(float(statistics.median(column) * 1e3) for column in table.T),
        tuple(float(statistics.median(column)) for column in ratios.T),
        tuple((float(low), float(high)) for low, high in np.quantile(ratios, (0.25, 0.75), 0).T),
    )
