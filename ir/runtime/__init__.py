"""Running models: the only place that knows ONNX Runtime."""

from onnx_compress.ir.runtime.limits import memory
from onnx_compress.ir.runtime.observe import executed, observe
from onnx_compress.ir.runtime.opening import Runner, fits, open_session
from onnx_compress.ir.runtime.session import Feed, Port, Session, silence, versions
from onnx_compress.ir.runtime.timing import Timing, compare_speed

__all__ = [
    "Feed",
    "Port",
    "Runner",
    "Session",
    "Timing",
    "compare_speed",
    "executed",
    "fits",
    "memory",
    "observe",
    "open_session",
    "silence",
    "versions",
]
