"""Shapes of all values: inferred, and observed where inference has no answer."""

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph.elements import bits, count
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.runtime import Feed, observe


class Shapes:
    """Types of values; what is unknown is counted, never guessed."""

    def __init__(self, model: Model, feed: Feed | None = None) -> None:
        """With a `feed`, shapes are those of a run on it; without, they may stay symbolic.

        Inference gives up on shapes that the model computes. The model is then run once.
        """
        given = {name: array.shape for name, array in (feed or {}).items()}
        self.types: dict[Value, TensorType] = infer(model, given)
        if feed is None:
            return
        made = [value for node in model.graph.nodes for value in node.outputs if value is not None]
        unknown = [value for value in made if not self._plausible(value)]
        # of values without a known type some may be no tensors, and then have no shape to ask for
        for asked in (unknown, [value for value in unknown if value in self.types]):
            if asked and self._observe(model, feed, asked):
                return

    def _observe(self, model: Model, feed: Feed, values: list[Value]) -> bool:
        try:
            seen = observe(model, feed, values, ["Shape"])
        except CompressError:
            return False
        for value, (shape,) in seen.items():
            element = self.types[value].element if value in self.types else 0
            self.types[value] = TensorType(element, tuple(int(size) for size in shape))
        return True

    def _plausible(self, value: Value | None) -> bool:
        shape = self.shape(value)
        return shape is not None and min(shape, default=0) >= 0

    def shape(self, value: Value | None) -> tuple[int, ...] | None:
        """The full shape, if it is known."""
        known = self.types.get(value) if value is not None else None
        return known.static if known is not None else None

    def nbytes(self, value: Value | None) -> int | None:
        """Bytes of the value when it is computed; None if unknown. Sub-byte types are packed."""
        shape = self.shape(value)
        if shape is None or value is None:
            return None
        try:
            return -(-count(shape) * bits(self.types[value].element) // 8)
        except CompressError:  # strings, and what onnx has no numpy type for
            return None
