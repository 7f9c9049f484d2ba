"""Operators of bytes against those of floats: what the figures of targets are measured by.

    python -m onnx_compress.bench.operators                  Add, Mul, Sigmoid, pools ...
    python -m onnx_compress.bench.operators --convolutions   rows for [speed.static] of a target

Chains of ten, one thread, float32 and QuantizeLinear, DequantizeLinear around each in turn. A chain
of operators has a 1 x 1 convolution before each, whose time is taken off again.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import Model, from_proto
from onnx_compress.ir.runtime import Session, compare_speed

COUNT = 10
STEP = np.float32(0.02)
SIZES = ((16, 2), (16, 14), (32, 28), (64, 56), (128, 14), (256, 7))  # channels, width
OPERATORS: dict[str, dict[str, Sequence[int]]] = {
    "Add": {},
    "Mul": {},
    "Sigmoid": {},
    "LeakyRelu": {},
    "MaxPool": {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)},
    "AveragePool": {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)},
}
# channels in and out, window, groups, width
CONVOLUTIONS = (
    *((c, c, 1, 1, n) for c, n in ((16, 56), (32, 28), (64, 28), (128, 14), (256, 14), (1024, 7))),
    *((16, 96, 1, 1, 56), (24, 144, 1, 1, 28), (40, 240, 1, 1, 14), (112, 672, 1, 1, 14)),
    *((c, c, 3, 1, n) for c, n in ((16, 56), (32, 28), (64, 28), (128, 14), (256, 14), (512, 7))),
    *((c, c, 3, c, n) for c, n in ((32, 56), (96, 28), (240, 14), (672, 7))),
    *((c, c, 5, c, n) for c, n in ((96, 28), (240, 14), (672, 7))),
    *((64, 64, 3, 8, 28), (128, 128, 3, 32, 14)),
)


@dataclass
class Chain:
    """A model that grows at its end; with `coded`, every value is made a byte and back."""

    channels: int
    width: int
    coded: bool
    last: str = "x"
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def constant(self, name: str, array: Any) -> str:
        """Its name."""
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One node, and what makes bytes of it."""
        out = self._node(op, inputs, **attributes)
        if self.coded:
            out = self._through(out)
        self.last = out
        return out

    def start(self) -> None:
        """What the model is given, in bytes."""
        self.last = self._through("x") if self.coded else "x"

    def convolve(self, outputs: int, inputs: int, window: int, groups: int) -> None:
        """A convolution of random weights."""
        shape = (outputs, inputs // groups, window, window)
        rng = np.random.default_rng(len(self.nodes))
        weight = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        name = f"w{len(self.nodes)}"
        read = self.constant(name, weight)
        if self.coded:
            scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            codes = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            parts = [self.constant(name, codes), self.constant(f"{name}.s", scale)]
            parts.append(self.constant(f"{name}.z", np.zeros(outputs, np.int8)))
            read = self._node("DequantizeLinear", parts, axis=0)
        self.add("Conv", [self.last, read], pads=[window // 2] * 4, group=groups)

    def model(self) -> Model:
        """The whole of it."""
        shape = (1, self.channels, self.width, self.width)
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            list(self.constants.values()),
        )
        imports = [helper.make_opsetid("", 13)]
        return from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))

    def _node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def _through(self, value: str) -> str:
        step = [self.constant("step", STEP), self.constant("zero", np.uint8(128))]
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [value, *step]), *step])


def times(channels: int, width: int, grow: Callable[[Chain], None], seconds: float) -> list[float]:
    """Microseconds of one link of the chain: floats, bytes."""
    sessions = []
    for coded in (False, True):
        chain = Chain(channels, width, coded)
        chain.start()
        for _ in range(COUNT):
            grow(chain)
        sessions.append(Session(chain.model()))
    shape = (1, channels, width, width)
    feed = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    found = compare_speed(sessions, [feed], seconds).milliseconds
    return [each * 1e3 / COUNT for each in found]


def _operators(seconds: float) -> None:
    print("| operator | channels | width | floats, us | bytes, us | more, ns a number |")
    print("| --- | --- | --- | --- | --- | --- |")
    for channels, width in SIZES:

        def plain(chain: Chain, c: int = channels) -> None:
            chain.convolve(c, c, 1, 1)

        base = times(channels, width, plain, seconds)
        for op, attributes in OPERATORS.items():

            def both(chain: Chain, op: str = op, given: Any = attributes) -> None:
                before = chain.last
                plain(chain)
                inputs = [chain.last, before] if op in ("Add", "Mul") else [chain.last]
                chain.add(op, inputs, **given)

            found = times(channels, width, both, seconds)
            floats, bytes_ = (a - b for a, b in zip(found, base, strict=True))
            more = (bytes_ - floats) * 1e3 / (channels * width**2)
            print(f"| {op} | {channels} | {width} | {floats:.1f} | {bytes_:.1f} | {more:.2f} |")


def _convolutions(seconds: float) -> None:
    print("# channels and window of a group, rows, times as fast")
    for inputs, outputs, window, groups, width in CONVOLUTIONS:

        def pair(
            chain: Chain, a: int = inputs, b: int = outputs, w: int = window, g: int = groups
        ) -> None:
            chain.convolve(b, a, w, g)
            if a != b:
                chain.convolve(a, b, w, g)

        floats, bytes_ = times(inputs, width, pair, seconds)
        print(f"[{inputs // groups}, {window**2}, {outputs // groups}, {floats / bytes_:.2f}],")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--convolutions", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each chain")
    options = parser.parse_args()
    (_convolutions if options.convolutions else _operators)(options.seconds)


if __name__ == "__main__":
    main()
