"""What can be seen of one run: numbers about values, and which nodes the runtime really runs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnx_compress.ir.graph.build import add_exit
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import scratch
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.runtime.opening import open_session
from onnx_compress.ir.runtime.session import Feed


def executed(model: Model, feed: Feed) -> list[tuple[str, str]]:
    """Operator and name of every node that the runtime runs, after its own optimization.

    What it folded when it loaded the model, or fused into another node, is not among them.
    """
    with scratch(), tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
        session = open_session(model, profile=Path(folder))
        session.run(feed)
        return session.executed()


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
            add_exit(seen, probe.graph)
    results = open_session(probe, optimize=False).run(feed)[len(model.graph.outputs) :]
    width = len(operators)
    return {
        named[value.name]: results[at * width : (at + 1) * width] for at, value in enumerate(found)
    }
