"""What the runtime makes of a model before it runs it: constants folded, nodes fused.

    DynamicQuantizeLinear, MatMulInteger, Cast, Mul   ->   DynamicQuantizeMatMul

Run without optimizations, this computes what the model does with them, bit for bit; so values in it
can be watched without a change to what is run.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import scratch
from onnx_compress.ir.runtime.session import Feed, Session


@dataclass(frozen=True)
class Optimized:
    """`model`: the optimized graph. `outputs` of one run, and how often which operators ran."""

    model: Model
    outputs: list[Any]
    ran: Counter[str]

    @property
    def counts(self) -> Counter[str]:
        """Nodes of the optimized graph by operator, without domains; those in bodies too."""
        return Counter(node.proto.op_type for node in self.model.nodes())

    def missing(self) -> list[str]:
        """Operators of the main graph that did not run as often as they stand there."""
        main = Counter(node.proto.op_type for node in self.model.graph.nodes)
        found = [op for op, count in main.items() if self.ran[op] < count and op != "Constant"]
        return sorted({*found, *(op for op in self.ran if op not in self.counts)})


def optimized(model: Model | Path, feed: Feed) -> Optimized:
    """Load a model, run it once, and read what it became. Raises InvalidError, LoadError."""
    with scratch(), tempfile.TemporaryDirectory(prefix="onnx-compress-") as name:
        folder = Path(name)
        path = folder / "optimized.onnx"
        session = Session(model, optimized=path, profile=folder)
        outputs = session.run(feed)
        ran = Counter(op for op, _ in session.executed())
        return Optimized(files.load(path), outputs, ran)
