"""Operators of unknown domains are never touched: not by loading and saving, not by passes."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

from graphs import WIDE, parsed, weight

X = np.ones((8, WIDE), np.float32)


def everywhere() -> ModelProto:
    """Unknown operators on weights, on constants that could be folded, in a branch, with bodies."""
    model = parsed(
        f"""<ir_version: 8, opset_import: ["" : 17, "test.ops" : 1, "strange" : 7]>
        g (bool c, float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{
            h = MatMul(x, w)
            [first] a, b = strange.Mix<alpha = 0.5, text = "t">(h, own, , x)
            k = strange.Constant<value = float {{1}}>()
            m = strange.MatMul(a, own)
            s = strange.Identity(m)
            q = MatMul(s, v)
            y = If (c) <
                then_branch = t () => (float[N,{WIDE}] r) {{ r = strange.Mix(q, k, inner) }},
                else_branch = e () => (float[N,{WIDE}] e2) {{ e2 = strange.Identity(q) }}
            >
        }}""",
        w=weight(0),
        own=weight(1),
        v=weight(2),
    )
    inner = numpy_helper.from_array(weight(3), "inner")
    model.graph.node[-1].attribute[0].g.initializer.append(inner)
    return model


def strange(model: ModelProto) -> list[bytes]:
    """Nodes of the unknown domain, and the weights that they alone read, as they are stored."""
    graph = model.graph
    branches = [attribute.g for attribute in graph.node[-1].attribute]
    nodes = [node for g in (graph, *branches) for node in g.node if node.domain == "strange"]
    tensors = [t for g in (graph, *branches) for t in g.initializer]
    kept = [tensor for tensor in tensors if tensor.name in ("own", "inner")]
    assert (len(nodes), len(kept)) == (6, 2)
    return sorted(part.SerializeToString(deterministic=True) for part in (*nodes, *kept))


def test_unknown_operators_survive_loading_and_saving(tmp_path):
    model, path = everywhere(), tmp_path / "m.onnx"
    for external in (False, True):
        save(from_proto(model), path, external)
        again = to_proto(load(path))
        assert again.opset_import == model.opset_import
        assert strange(again) == strange(model)


FEED = {"c": np.array(True), "x": X}
PASSES = {
    "fold": Fold(),
    "half": Quant(bits=16),
    "bytes": Quant(bits=8),
    "float": Quant(bits=8, activations="float"),
    "prune": Prune(sparsity=0.5),
}


@pytest.mark.parametrize("name", PASSES)
def test_unknown_operators_and_their_weights_are_left_alone(name):
    """Even where the model cannot be run."""
    view = from_proto(everywhere())
    report = PASSES[name].run(view, Context(targets.load("avx2"), FEED))
    after = to_proto(view)
    assert strange(after) == strange(everywhere())
    assert {entry.domain for entry in after.opset_import} >= {"", "strange"}
    changed = {entry.subject for entry in report.changes} - {"operator set"}
    assert changed == (set() if name == "fold" else {"w", "v"})


@pytest.mark.parametrize("name", PASSES)
def test_a_weight_that_an_unknown_operator_reads_too_is_left_alone(name):
    view = from_proto(
        parsed(
            f"""<ir_version: 8, opset_import: ["" : 17, "strange" : 1]>
            g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{
                h = strange.Mix(x, v)
                y = MatMul(h, v)
            }}""",
            v=weight(1),
        )
    )
    PASSES[name].run(view, Context(targets.load("avx2"), {"x": X}))
    after = to_proto(view)
    (mix,) = (node for node in after.graph.node if node.domain)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    np.testing.assert_array_equal(arrays.get(mix.input[1]), weight(1))
