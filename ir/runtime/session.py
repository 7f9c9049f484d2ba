"""One loaded model on the CPU.

Small ones are loaded from memory, their weights handed over as arrays; larger ones through a file
in a temporary folder, with the weights beside it, so that no message passes 2 GB.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CompressError, InvalidError, LoadError
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.apart import apart
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.external import bytes_outside, write_beside
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import scratch
from onnx_compress.ir.runtime.jobs import in_order
from onnx_compress.ir.runtime.limits import libraries, run_seconds

Feed = Mapping[str, Array]

_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ [^(]*\((?:[^()]|\([^()]*\))*\)(?: const)? ?")
_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")
_IN_MEMORY = 32 << 20  # bytes of large weights of a model that is handed over in memory

DTYPES = {
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

    def mismatch(self, array: Any) -> str:
        """What does not fit of an array that is given, in words; "" if all does."""
        if not isinstance(array, np.ndarray):
            return ""
        text = self.dtype == object and array.dtype.kind in "OUS"
        if self.dtype is not None and array.dtype != self.dtype and not text:
            return str(array.dtype)
        fixed = (
            isinstance(dim, int) and dim > 0 and dim != size
            for dim, size in zip(self.shape, array.shape, strict=False)
        )
        if self.shape and (array.ndim != len(self.shape) or any(fixed)):
            return f"shape {list(array.shape)}"
        return ""


class Session:
    """A model in the runtime."""

    def __init__(
        self,
        model: Model | Path,
        threads: int = 1,
        optimize: bool = True,
        profile: Path | None = None,
        mapped: bool = False,
        intra: int = 1,
        optimized: Path | None = None,
        spin: bool = True,
        simulated: bool = False,
    ) -> None:
        """Load a model. Raises InvalidError with the runtime's own words.

        `threads`: how many samples are run at a time, each in one thread, so that sums do not
        depend on it. `profile`: a folder to write what is run to, see `executed`. `mapped`: leave
        external data in their file, as they are. `intra`: threads for one run; `spin`: whether
        they look for work all the time, as users have it, which takes it from what else runs.
        `simulated`: what is made bytes and back stays floats in between, in fused operators.
        `optimized`: a file to write what the runtime makes of the model to.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if simulated:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # the arena keeps the peak of loading for ever
        if not optimize or mapped:
            level = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = level.ORT_DISABLE_ALL
        if mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile / "profile")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            # a file of its own for the weights, or it refers to the one that the model came with
            beside = "session.optimized_model_external_initializers_"
            options.add_session_config_entry(f"{beside}file_name", f"{optimized.stem}.data")
            options.add_session_config_entry(f"{beside}min_size_in_bytes", "1024")
        self.threads, self.seconds = threads, run_seconds()
        for library in libraries():
            _register(library, options)
        try:
            # the runtime reads what it is handed as long as it lives
            self._session, self._weights = _load(model, options, optimized is None)
            self.inputs = [_port(port) for port in self._session.get_inputs()]
            self.outputs = [_port(port) for port in self._session.get_outputs()]
        except Exception as error:
            if isinstance(error, OSError | MemoryError | CompressError):
                raise
            raise InvalidError(f"it does not load: {_reason(error)}", _hint(error)) from error

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in their order. Raises InvalidError with the runtime's own words."""
        return next(self.run_all([feed]))

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[list[Any]]:
        """Outputs sample by sample, in order. Raises like `run`, also where a run takes too long.

        Runs are on threads of their own, so that Ctrl-C ends them.
        """
        return in_order(self.call, feeds, self.threads, self.seconds)

    def call(self, feed: Feed, options: Any = None) -> list[Any]:
        """Like `run`, on this thread and whatever the time: to be timed."""
        try:
            results: list[Any] = self._session.run(None, dict(feed), options)
        except Exception as error:
            raise InvalidError(f"it does not run: {_reason(error)}") from error
        return results

    def executed(self) -> list[tuple[str, str]]:
        """Operator and name of every node that was run; needs a `profile`."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        suffix = "_kernel_time"
        return [
            (event.get("args", {}).get("op_name", ""), event["name"].removesuffix(suffix))
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(suffix)
        ]


def _register(library: Path, options: Any) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        hint = "give a shared library that was built for ONNX Runtime"
        raise LoadError(f"no library of operators: {_reason(error)}", hint, str(library)) from error


def _load(model: Model | Path, options: Any, handing: bool) -> tuple[Any, list[Array]]:
    """`handing`: weights may be handed over beside the message."""
    import onnxruntime

    if isinstance(model, Path):
        return _open(str(model), options), []
    skeleton = model.skeleton()
    if bytes_outside(skeleton) > _IN_MEMORY:
        with scratch(), tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
            return _open(str(write_beside(model, Path(folder))), options), []
    if not handing:
        return _open(files.to_bytes(model), options), []
    message, weights = apart(model, skeleton)
    names, arrays = list(weights), list(weights.values())
    if names:
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        options.add_external_initializers(names, [make(array) for array in arrays])
    return _open(message, options), arrays


def _open(source: str | bytes, options: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(
        source,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,  # it prints, and tries the same again
    )


def _reason(error: Exception) -> str:
    """The runtime's own words, without the places in its source."""
    if isinstance(error, UnicodeDecodeError):
        return "text in it is not UTF-8"
    if any(word in str(error) for word in _MEMORY):
        raise MemoryError(str(error)) from error
    return _PLACE.sub("", str(error)).replace("\n", " ")[:600]


def _hint(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "names are UTF-8 in ONNX; the file is damaged"
    if "is not a registered function/op" in str(error):
        return "if a library has this operator, give it with --custom-ops; only one that you trust"
    return "ONNX Runtime refuses the model; see its message"


def _port(port: Any) -> Port:
    kind = DTYPES.get(port.type)
    shape = tuple(dim if isinstance(dim, int | str) else None for dim in port.shape or ())
    return Port(port.name, np.dtype(kind) if kind else None, shape)


def silence() -> None:
    """Keep the runtime from printing, in the whole process: for commands, not for libraries."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    onnxruntime.disable_telemetry_events()


def versions() -> dict[str, str]:
    """Version of the runtime, for reports."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}
