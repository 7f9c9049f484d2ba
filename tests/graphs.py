"""Models that several test files work on, and what is done with them there."""

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import Model, Value, from_proto, to_proto
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def array(*shape: int, dtype=np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def parsed(text: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray) -> ModelProto:
    """A proto with these initializers; `text` starts with its head, its graph or its inputs."""
    if not text.startswith("<"):
        domains = f'"" : {opset}, "com.microsoft" : 1'
        graph = f"g {text}" if text.startswith("(") else text
        text = f"<ir_version: {ir_version}, opset_import: [{domains}]> {graph}"
    proto = parse_model(text)
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


def view(text: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray) -> Model:
    model = from_proto(parsed(text, opset, ir_version, **weights))
    check(model)
    return model


def value(model: Model, name: str, graph=None) -> Value:
    for found in [graph] if graph else model.graphs():
        values = [v for v, _ in found.inputs] + list(found.initializers)
        for v in values + [v for node in found.nodes for v in node.outputs if v]:
            if v.name == name:
                return v
    raise KeyError(name)


def node(model: Model, op: str):
    return next(node for node in model.nodes() if node.op == op)


def only(model: Model):
    """The one weight of a model."""
    (weight,) = find_weights(model)
    return weight


def run(model, optimize: bool = True, **feed) -> list:
    """The outputs of a model, of a proto or of a file."""
    model = from_proto(model) if isinstance(model, ModelProto) else model
    if isinstance(model, Model):
        check(model)
    return Session(model, optimize=optimize).run({name: np.asarray(a) for name, a in feed.items()})


def after(model: Model) -> Model:
    """The model as it is read again once it is written."""
    check(model)
    again = from_proto(to_proto(model))
    check(again)
    return again


# -------------------------------------------------------------------------- models with bodies

BRANCHES = """g (bool c, float[2] x) => (float[2] y) <float[2] b = {1, 2}> {
    h = Add(x, b)
    y = If (c) <
        then_branch = t () => (float[2] r) { r = Mul(h, b) },
        else_branch = e () => (float[2] r) <float[2] k = {5, 5}> {
            d = Constant<value = bool {1}>()
            r = If (d) <
                then_branch = et () => (float[2] s) { q = Sub(h, k)  s = Sub(q, x) },
                else_branch = ee () => (float[2] s) { s = Identity(k) }
            >
        }
    >
}"""

LOOP = """g (int64 n, float[2] x) => (float[2] last, float[m, 2] all) <float[2] b = {1, 2}> {
    w = Relu(x)
    on = Constant<value = bool {1}>()
    last, all = Loop(n, on, x) <body = l (int64 i, bool go, float[2] acc)
            => (bool still, float[2] next, float[2] row) {
        still = Identity(go)
        u = Add(acc, w)
        next = Mul(u, b)
        row = Identity(u)
    }>
}"""


# ---------------------------------------------------------------------------- protos for files

WIDE = 64  # a WIDE x WIDE float32 weight is larger than what stays in the proto


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((WIDE, WIDE)).astype(np.float32)


def product(ir_version: int = 8, **where: np.ndarray) -> ModelProto:
    """y = x @ w @ v, both in initializers."""
    model = parse_model(
        f"""<ir_version: {ir_version}, opset_import: ["" : 17]>
        g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{ h = MatMul(x, w)  y = MatMul(h, v) }}"""
    )
    for name, array in {"w": weight(0), "v": weight(1), **where}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def everything() -> ModelProto:
    """A model with all that the format can hold, in an order that needs no sorting."""
    model = parse_model(
        """<ir_version: 11, opset_import: ["" : 21, "local" : 1, "com.microsoft" : 1],
            producer_name: "somebody", producer_version: "1", domain: "a.b", model_version: 7,
            doc_string: "doc", metadata_props: ["key" : "value"]>
        g (float[N,4] x, bool c, float[4] d) => (float[N,4] y, float[N,4] z) <float[N,4] a>
        {
            a = Relu(x)
            s, t = Split<axis=1, num_outputs=2>(a)
            u = Concat<axis=1>(s, t)
            l = local.f<k=2.0>(u)
            m = Clip(l, , big)
            y = If (c) <then_branch = yes () => (float[N,4] r) <float[1] one = {1.0}>
                    { r = Add(a, one) },
                else_branch = no () => (float[N,4] r) { r = Mul(a, d) }>
            z = com.microsoft.Gelu(m)
        }
        <domain: "local", opset_import: ["" : 21]>
        f <k> (p) => (q) { kk = Constant<value_float: float = @k>()  q = Mul(p, kk) }"""
    )
    graph = model.graph
    graph.doc_string = "graph doc"
    graph.initializer.append(numpy_helper.from_array(np.float32(6), "big"))
    graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "d"))
    graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b\xff"]))
    graph.initializer.append(helper.make_tensor("i4", TensorProto.INT4, [3], [-8, 7, 1]))
    graph.initializer.append(helper.make_tensor("u4", TensorProto.UINT4, [3], [0, 15, 1]))
    graph.initializer.append(helper.make_tensor("b16", TensorProto.BFLOAT16, [2], [1.5, -2]))
    for name in ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1"):
        kind = getattr(TensorProto, name)
        graph.initializer.append(helper.make_tensor(name, kind, [2, 1], [1.0, -2.0]))
    graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "none"))
    graph.initializer.append(numpy_helper.from_array(weight(), "large"))
    graph.initializer[-1].doc_string = ""
    graph.initializer[-1].metadata_props.add(key="a", value="b")
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
    graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[2, 4]))
    note = graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="big")
    graph.node[0].doc_string = "node doc"
    graph.node[0].metadata_props.add(key="namespace", value="block.0")
    graph.metadata_props.add(key="where", value="graph")
    model.functions[0].doc_string = "function doc"
    return model


# ------------------------------------------------------------- weights wherever they may stand
