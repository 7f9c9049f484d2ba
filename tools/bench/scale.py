"""Large graphs: seconds of edits, of sorting, and of load and save against onnx-graphsurgeon.

    python -m onnx_compress.bench.scale

One process, the two ways of loading and saving in turn, medians.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
import onnx_graphsurgeon
from onnx import ModelProto, TensorProto, helper

from onnx_compress.ir.graph import from_proto, load, save


def chain(length: int) -> ModelProto:
    """x -> Neg -> ... -> Neg -> y."""
    names = ["x", *(f"v{at}" for at in range(1, length)), "y"]
    return _model([helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)])


def network(blocks: int) -> ModelProto:
    """Blocks of five nodes with names, attributes, documentation and a small weight."""
    nodes, weights = [], []
    for n in range(blocks):
        weights.append(helper.make_tensor(f"w{n}", TensorProto.FLOAT, [2], [1.0, 2.0]))
        source = f"h{n - 1}" if n else "x"
        nodes += [
            helper.make_node("Mul", [source, f"w{n}"], [f"a{n}"], name=f"/block{n}/mul"),
            helper.make_node("Add", [f"a{n}", source], [f"b{n}"], name=f"/block{n}/add"),
            helper.make_node("Softmax", [f"b{n}"], [f"c{n}"], name=f"/block{n}/softmax", axis=-1),
            helper.make_node("Clip", [f"c{n}"], [f"d{n}"], name=f"/block{n}/clip"),
            helper.make_node("Relu", [f"d{n}"], [f"h{n}"], name=f"/block{n}/relu", doc_string="r"),
        ]
    nodes.append(helper.make_node("Identity", [f"h{blocks - 1}"], ["y"]))
    return _model(nodes, weights)


def _model(nodes: list[onnx.NodeProto], weights: list[TensorProto] | None = None) -> ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repoint(count: int) -> float:
    """Seconds to let `count` consumers of one value read another."""
    nodes = [helper.make_node("Neg", ["x"], [f"n{at}"]) for at in range(count)]
    model = from_proto(
        _model([*nodes, helper.make_node("Sum", [n.output[0] for n in nodes], ["y"])])
    )
    (source,) = model.inputs()
    other = model.add_node(model.graph, "Abs", [source])
    return _seconds(lambda: model.replace_uses(source, other, lambda node: node.op == "Neg"))


def main() -> None:
    """Print the table."""
    print(
        f"10,000 consumers re-pointed: {statistics.median(repoint(10_000) for _ in range(5)):.4f} s"
    )
    proto = chain(20_000)
    turned = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(turned)
    model = from_proto(proto)
    took = statistics.median(_seconds(model.graph.sorted) for _ in range(5))
    print(f"a reversed chain of 20,000 nodes sorted: {took:.3f} s")
    with tempfile.TemporaryDirectory() as name:
        source, ours, theirs = (Path(name) / f"{n}.onnx" for n in ("in", "ours", "theirs"))
        onnx.save(network(20_000), source)

        def graphsurgeon() -> None:
            graph = onnx_graphsurgeon.import_onnx(onnx.load(source))
            onnx.save(onnx_graphsurgeon.export_onnx(graph), theirs)

        pairs = [
            (_seconds(lambda: save(load(source), ours)), _seconds(graphsurgeon)) for _ in range(5)
        ]
        first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"100,001 nodes, load and save: {first:.1f} s, {ratio:.2f} times onnx and "
            f"onnx-graphsurgeon ({second:.1f} s)"
        )


if __name__ == "__main__":
    main()
