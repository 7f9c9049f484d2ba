"""A session for code that was written for onnxruntime.InferenceSession."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.runtime.opening import Runner
from onnx_compress.ir.runtime.session import DTYPES, Feed, Port

_TYPES = {name: kind for kind, name in DTYPES.items()}


@dataclass(frozen=True)
class Argument:
    """Like onnxruntime.NodeArg: name, shape, and type as in "tensor(float)"."""

    name: str
    shape: list[int | str | None]
    type: str


class LikeRuntime:
    """`run`, `get_inputs` and `get_outputs` as the runtime has them, over what runs the model."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Feed,
        run_options: Any = None,
    ) -> list[Any]:
        """The outputs named, or all. `run_options` are not used. Raises InvalidError."""
        outputs = self._runner.run(input_feed)
        if not output_names:
            return outputs
        found = {port.name: at for at, port in enumerate(self._runner.outputs)}
        strange = [name for name in output_names if name not in found]
        if strange:
            raise InvalidError(f"there is no output {strange[0]!r}")
        return [outputs[found[name]] for name in output_names]

    def get_inputs(self) -> list[Argument]:
        """What goes in."""
        return [_argument(port) for port in self._runner.inputs]

    def get_outputs(self) -> list[Argument]:
        """What comes out."""
        return [_argument(port) for port in self._runner.outputs]


def _argument(port: Port) -> Argument:
    return Argument(port.name, list(port.shape), _TYPES.get(str(port.dtype), ""))
