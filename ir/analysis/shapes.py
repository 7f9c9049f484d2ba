"""Shapes of all values: inferred, and observed where inference has no answer."""

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.tensors import bits, count
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
        open_values = [
            value
            for node in model.graph.nodes
            for value in node.outputs
            if value in self.types and not self._plausible(value)
        ]
        if open_values:
            try:
                seen = observe(model, feed, open_values, ["Shape"])
            except CompressError:
                return
            for value, (shape,) in seen.items():
                sizes = tuple(int(size) for size in shape)
                self.types[value] = TensorType(self.types[value].element, sizes)

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
