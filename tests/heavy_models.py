"""Models of a few weights that count as heavy, stored in every way."""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from graphs import parsed

SIDE = 32
HEAVY = SIDE * SIDE * 4  # bytes of one weight, which makes it a shell


def square(seed: int, dtype: str = "float32") -> np.ndarray:
    numbers = np.random.default_rng(seed).standard_normal((SIDE, SIDE)) / SIDE**0.5
    return (numbers * 40 if dtype == "int8" else numbers).astype(dtype)


def four(body: str, outputs: str = "float[N,32] y", inputs: str = "float[N,32] x") -> ModelProto:
    """A model of this text with the weights a, b, c and d, and the scalars k and l."""
    weights = {name: square(at) for at, name in enumerate("abcd")}
    scalars = {"k": np.float32(0.5), "l": np.float32([3])}
    return parsed(f"({inputs}) => ({outputs}) {{ {body} }}", opset=19, **weights, **scalars)


CHAIN = "p = MatMul(x, a) q = MatMul(p, b) r = Relu(q) s = MatMul(r, c) y = MatMul(s, d)"


def with_sparse() -> ModelProto:
    proto = four("p = MatMul(x, a) q = MatMul(p, e) y = MatMul(q, b)")
    values = helper.make_tensor("e", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    indices = helper.make_tensor("", TensorProto.INT64, [3], [1, 40, 1000])
    sparse = SparseTensorProto(values=values, indices=indices, dims=[SIDE, SIDE])
    proto.graph.sparse_initializer.append(sparse)
    return proto


def with_constant_nodes() -> ModelProto:
    proto = four(CHAIN)
    for at in reversed(range(4)):
        tensor = proto.graph.initializer[at]
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        del proto.graph.initializer[at]
    return proto


def with_inputs_for_weights(ir_version: int) -> ModelProto:
    """From version 4 on a caller may override them; before, they had to be listed."""
    proto = four(CHAIN)
    proto.ir_version = ir_version
    for tensor in proto.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(info)
    return proto


def with_weights_in_branches() -> ModelProto:
    proto = four(
        """o = MatMul(x, a)  k2 = Neg(k)
        h = If (t) < then_branch = yes () => (float[N,32] r) {
                m = MatMul(o, b)  n = Mul(m, k2)  r = MatMul(n, own) },
            else_branch = no () => (float[N,32] r) {
                r = If (t) < then_branch = deep () => (float[N,32] u) { u = Identity(x) },
                    else_branch = other () => (float[N,32] u) { u = MatMul(x, c) } > } >
        y = MatMul(h, d)""",
        inputs="float[N,32] x, bool t",
    )
    branch = next(node for node in proto.graph.node if node.op_type == "If").attribute[0].g
    branch.initializer.append(numpy_helper.from_array(square(9), "own"))
    return proto


def coded(body: str) -> ModelProto:
    proto = four(body)
    for name, array in {"codes": square(5, "int8"), "half": square(6, "float16")}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


LOOP = """o = MatMul(x, a)  n = Constant<value = int64 {3}>()  on = Constant<value = bool {1}>()
    h, all = Loop(n, on, o) <body = l (int64 i, bool go, float[N,32] acc)
        => (bool still, float[N,32] next, float[N,32] row) {
        still = Identity(go)  u = MatMul(acc, b)  next = Add(u, x)  row = Mul(u, k) }>
    y = MatMul(h, c)"""

MODELS: dict[str, Callable[[], ModelProto]] = {
    "a chain": lambda: four(CHAIN),
    "a diamond": lambda: four("p = MatMul(x, a) q = MatMul(p, b) r = MatMul(p, c) y = Add(q, r)"),
    "residuals": lambda: four(
        "p = MatMul(x, a) q = Add(p, x) r = MatMul(q, b) s = Add(r, q) t = MatMul(s, c) "
        "u = Add(t, x) y = Mul(u, k)"
    ),
    "one weight in several places": lambda: four(
        "p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, a) s = MatMul(r, c) y = MatMul(s, a)"
    ),
    "a weight of the end read at the start": lambda: four(
        "p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, c) s = MatMul(x, c) y = Add(r, s)"
    ),
    "weights behind a cast": lambda: coded(
        "w = Cast<to = 1>(half) p = MatMul(x, w) q = MatMul(p, b) r = MatMul(q, c) y = MatMul(r, w)"
    ),
    "weights behind codes": lambda: coded(
        "f = DequantizeLinear(codes, k) v = Transpose<perm = [1, 0]>(f) w = Mul(v, k) "
        "p = MatMul(x, w) q = MatMul(p, b) r = MatMul(q, c) y = MatMul(r, v)"
    ),
    "constants computed for all": lambda: four(
        "m = Mul(k, l) e = Exp(m) p = MatMul(x, a) q = Mul(p, e) r = MatMul(q, b) s = Mul(r, m) "
        "t = MatMul(s, c) y = Mul(t, e)"
    ),
    "Constant nodes": with_constant_nodes,
    "branches": with_weights_in_branches,
    "a loop": lambda: four(LOOP, "float[N,32] y, float[M,N,32] all"),
    "outputs on the way": lambda: four(CHAIN, "float[N,32] q, float[N,32] y, float[N,32] p"),
    "constants given out": lambda: four(
        "z = Mul(k, l) f = Constant<value_floats = [1.0, 2.0]>() p = MatMul(x, a) q = Mul(p, z) "
        "y = MatMul(q, b)",
        "float[N,32] y, float[1] z, float[2] f, float[32,32] c",
    ),
    "a constant that is given out and read": lambda: four(
        "z = Neg(d) p = MatMul(x, z) q = MatMul(p, b) w = Neg(z) y = MatMul(q, w)",
        "float[N,32] y, float[32,32] z",
    ),
    "dead nodes": lambda: four(
        "p = MatMul(x, a) q = MatMul(p, b) u = MatMul(p, c) v = MatMul(u, d) y = Relu(q)"
    ),
    "inputs left out": lambda: four("p = MatMul(x, a) q = Clip(p, , k) y = MatMul(q, b)"),
    "several outputs of a node": lambda: four(
        "p = MatMul(x, a) e = Constant<value = int64[1] {16}>() "
        "g, h = Split<axis = 1, num_outputs = 2>(p) q = Concat<axis = 1>(h, g) r = MatMul(q, b) "
        "t, i = TopK(r, e) j = Cast<to = 1>(i) m = Concat<axis = 1>(t, j) n = MatMul(m, c) "
        "y = Add(n, p)"
    ),
    "functions": lambda: parsed(
        """<ir_version: 8, opset_import: ["" : 19, "local" : 1]>
        g (float[N,32] x) => (float[N,32] y) {
            p = local.f(x, a) q = MatMul(p, b) y = local.f(q, a) }
        <domain: "local", opset_import: ["" : 19]>
        f (v, w) => (r) { m = MatMul(v, w) r = Relu(m) }""",
        a=square(0),
        b=square(1),
    ),
    "weights that can be overridden": lambda: with_inputs_for_weights(8),
    "weights listed as inputs": lambda: with_inputs_for_weights(3),
    "a sparse weight": with_sparse,
}  # fmt: skip
LIMITS = (1, HEAVY, 2 * HEAVY, 1 << 30)
