"""Loading time and memory of a model, measured in a process of its own.

python -m onnx_compress.ir.runtime.probe < {"model": ..., "feed": ...}     prints a Footprint
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.runtime.limits import libraries
from onnx_compress.ir.runtime.session import Feed

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """Of one process: seconds to load; bytes after load, and at most, above those of imports.

    Bytes are None where the system does not tell.
    """

    load_seconds: float
    loaded_bytes: int | None
    peak_bytes: int | None


def save_feed(feed: Feed, folder: Path) -> Path:
    """Write arrays to a folder; texts as numpy keeps them, so that nothing is pickled."""
    arrays = [array.astype(str) if array.dtype == object else array for array in feed.values()]
    np.savez(folder / "feed.npz", *arrays)
    (folder / "feed.json").write_text(json.dumps(list(feed)), "utf-8")
    return folder / "feed.npz"


def footprint(model: Path, feed: Path, threads: int = 1) -> Footprint:
    """Load a model file, run it twice on what `save_feed` wrote. Raises InvalidError."""
    asked = {
        "model": str(model.absolute()),
        "feed": str(feed.absolute()),
        "threads": threads,
        "libraries": [str(path) for path in libraries()],
    }
    command = [sys.executable, "-m", __spec__.name]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise InvalidError(f"it does not run in a process of its own: {last[0]}", where=str(model))
    return Footprint(**json.loads(done.stdout))


def _measure(model: str, feed: str, threads: int, libraries: list[str]) -> Footprint:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    names = json.loads(Path(feed).with_suffix(".json").read_text("utf-8"))
    with np.load(feed) as stored:
        arrays = {name: stored[f"arr_{at}"] for at, name in enumerate(names)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for library in libraries:
        options.register_custom_ops_library(library)
    before = _memory("VmRSS")
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    loaded = _memory("VmRSS")
    for _ in range(2):
        session.run(None, arrays)
    peak = _memory("VmHWM")
    if before is None or loaded is None or peak is None:
        return Footprint(seconds, None, None)
    return Footprint(seconds, max(loaded - before, 0), max(peak - before, 0))


def _memory(kind: str) -> int | None:
    """Bytes, from where Linux keeps them."""
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(**json.load(sys.stdin)))))  # noqa: T201
