"""Every kernel beside what does the same elsewhere, on the same operands.

    case: name -> a call, for ours, ONNX Runtime's own kernel, scipy, numpy

Weights are normal numbers, coded as the passes code them; single nodes are run by ONNX Runtime.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.kernels import (
    binary,
    convolution,
    integer,
    linear,
    nbits,
    packing,
    sparse,
    ternary,
)
from onnx_compress.kernels.affine import quantize, symmetric_scale

Call = Callable[[], Any]
Case = tuple[str, dict[str, Call]]

OURS, RUNTIME, FLOAT = "kernels", "onnxruntime", "onnxruntime float32"


def products(columns: int, rows: int, m: int, threads: int) -> Iterator[Case]:
    """Products of activations [m, columns] with weights [rows, columns]."""
    rng = np.random.default_rng(columns + rows + m)
    w = rng.standard_normal((rows, columns), np.float32)
    x = rng.standard_normal((m, columns), np.float32)
    turned = np.ascontiguousarray(w.T)
    plain = single("MatMul", {"x": x}, {"w": turned}, threads)
    yield "int8", _int8(w, x, threads)
    for bits in (4, 2):
        yield f"int{bits} block 32, level 4", _blocks(w, x, bits, threads)
    yield "ternary", _ternary(w, x, threads)
    signs = binary.prepare(binary.pack_signs(w), columns)
    words = binary.pack_signs(x)
    yield "XNOR", {OURS: lambda: binary.xnor_dot(words, signs, threads=threads), FLOAT: plain}
    for zeros in (0.5, 0.6, 0.7, 0.9):
        yield f"CSR, {zeros:.0%} zeros", _sparse(w, x, zeros, (1, 1), turned, plain, threads)
    yield "BSR 4x4, 70% zeros", _sparse(w, x, 0.7, (4, 4), turned, plain, threads)
    yield "2:4", _two_of_four(w, x, turned, plain, threads)


def others(threads: int) -> Iterator[Case]:
    """Codes made and read, and a convolution."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (4096, 4096)).astype(np.int8)
    scale = rng.random(4096, np.float32)
    out = np.empty(codes.shape, np.float32)
    source = np.ones(codes.shape, np.float32)
    read = single("DequantizeLinear", {"q": codes}, {"s": scale}, threads, attributes={"axis": 1})
    yield (
        "dequantize int8 by channel, 4096x4096",
        {
            OURS: lambda: linear.dequantize_linear(codes, scale, out=out, threads=threads),
            RUNTIME: read,
            "np.copyto": lambda: np.copyto(out, source),
        },
    )
    x = rng.standard_normal((1024, 4096), np.float32)
    zero = np.uint8(128)
    made = single(
        "QuantizeLinear", {"x": x}, {"s": np.array(0.03, np.float32), "z": np.array(zero)}, threads
    )
    yield (
        "quantize uint8, 1024x4096",
        {
            OURS: lambda: linear.quantize_linear(x, np.float32(0.03), zero, threads=threads),
            RUNTIME: made,
        },
    )
    yield "convolution int8 3x3, 64 channels, 56x56", _convolution(rng, threads)


def single(
    op: str,
    inputs: dict[str, Any],
    constants: dict[str, Any],
    threads: int,
    domain: str = "",
    attributes: dict[str, Any] | None = None,
) -> Call:
    """A call of one node in ONNX Runtime; operands in their order, those in `constants` stored."""
    places = list(attributes.pop("order")) if attributes and "order" in attributes else None
    names = places or [*inputs, *constants]
    kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in inputs.items()}
    result = {"QuantizeLinear": TensorProto.UINT8, "QLinearConv": TensorProto.UINT8}
    given = result.get(op, TensorProto.INT32 if op == "MatMulInteger" else TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], domain=domain, **(attributes or {}))],
        op,
        [helper.make_tensor_value_info(name, kinds[name], a.shape) for name, a in inputs.items()],
        [helper.make_tensor_value_info("y", given, None)],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    session = Session(model, intra=threads)
    return lambda: session.call(inputs)[0]


def _int8(w: Any, x: Any, threads: int) -> dict[str, Call]:
    codes = np.ascontiguousarray(quantize(w, symmetric_scale(w, (0,), 8), 8).T)
    a, _, zero = linear.dynamic_quantize(x)
    exact, clipped = integer.prepare(codes), integer.prepare(codes, saturate=True)
    constants = {"b": codes, "z": np.array(zero)}
    order = {"order": ["a", "b", "z"]}
    return {
        OURS: lambda: integer.matmul_integer(a, exact, zero, threads=threads),
        "kernels, saturating": lambda: integer.matmul_integer(a, clipped, zero, threads=threads),
        RUNTIME: single("MatMulInteger", {"a": a}, constants, threads, attributes=order),
    }


def _blocks(w: Any, x: Any, bits: int, threads: int) -> dict[str, Call]:
    rows, columns = w.shape
    scale = np.abs(w).reshape(rows, -1, 32).max(2) / (2 ** (bits - 1) - 0.5)
    codes = np.rint(w.reshape(rows, -1, 32) / scale[..., None]) + 2 ** (bits - 1)
    packed = packing.pack(np.clip(codes, 0, 2**bits - 1), bits)
    kept = nbits.block_codes(packed, scale, bits=bits, block_size=32, columns=columns)
    ready = nbits.prepare(kept)
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": 32, "accuracy_level": 4}
    constants = {"b": packed, "s": scale.astype(np.float32)}
    theirs = single("MatMulNBits", {"x": x}, constants, threads, "com.microsoft", attributes)
    return {
        OURS: lambda: nbits.matmul_nbits(x, ready, accuracy_level=4, threads=threads),
        RUNTIME: theirs,
    }


def _ternary(w: Any, x: Any, threads: int) -> dict[str, Call]:
    t = np.where(np.abs(w) > 0.7, np.sign(w), 0).astype(np.int8)
    packed = ternary.pack_ternary(t)
    ready = ternary.prepare(packed, np.float32(1), columns=w.shape[1])
    blocks = packed.reshape(len(w), -1, 32)  # 128 codes
    attributes = {"K": w.shape[1], "N": len(w), "bits": 2, "block_size": 128, "accuracy_level": 4}
    constants = {
        "b": blocks,
        "s": np.ones(blocks.shape[:2], np.float32),
        "z": packing.pack(np.ones(blocks.shape[:2], np.uint8), 2).reshape(-1),
    }
    return {
        OURS: lambda: ternary.matmul_ternary(x, ready, threads=threads),
        RUNTIME: single("MatMulNBits", {"x": x}, constants, threads, "com.microsoft", attributes),
    }


def _sparse(
    w: Any, x: Any, zeros: float, block: tuple[int, int], turned: Any, plain: Call, threads: int
) -> dict[str, Call]:
    import scipy.sparse

    rng = np.random.default_rng(1)
    kept = rng.random((w.shape[0] // block[0], w.shape[1] // block[1])) >= zeros
    dense = w * np.kron(kept, np.ones(block, bool))
    theirs = scipy.sparse.csr_matrix(dense)
    if block == (1, 1):
        ours = sparse.csr(theirs.indptr, theirs.indices, theirs.data, w.shape[1])
    else:
        theirs = theirs.tobsr(block)
        ours = sparse.bsr(theirs.indptr, theirs.indices, theirs.data, w.shape[1])
    across = np.ascontiguousarray(x.T)
    return {
        OURS: lambda: sparse.matmul_sparse(x, ours, threads=threads),
        "scipy": lambda: theirs @ across,
        "numpy float32": lambda: x @ turned,
        FLOAT: plain,
    }


def _two_of_four(w: Any, x: Any, turned: Any, plain: Call, threads: int) -> dict[str, Call]:
    groups = np.abs(w).reshape(len(w), -1, 4)
    places = np.sort(groups.argsort(2)[..., 2:], 2)
    values = np.take_along_axis(w.reshape(groups.shape), places, 2).reshape(len(w), -1)
    ours = sparse.n_of_m(values, places.reshape(values.shape), 4, w.shape[1])
    return {
        OURS: lambda: sparse.matmul_sparse(x, ours, threads=threads),
        "numpy float32": lambda: x @ turned,
        FLOAT: plain,
    }


def _convolution(rng: Any, threads: int) -> dict[str, Call]:
    x = rng.integers(0, 256, (1, 64, 56, 56)).astype(np.uint8)
    w = rng.integers(-63, 64, (64, 64, 3, 3)).astype(np.int8)
    x_scale, w_scale, y_scale = (np.array(s, np.float32) for s in (0.02, 0.01, 0.5))
    zero, none = np.array(128, np.uint8), np.array(0, np.int8)
    constants = {"w": w, "xs": x_scale, "z": zero, "ws": w_scale, "n": none, "ys": y_scale}
    order = ["x", "xs", "z", "w", "ws", "n", "ys", "z"]
    pads = (1, 1, 1, 1)
    theirs = single(
        "QLinearConv", {"x": x}, constants, threads, attributes={"order": order, "pads": pads}
    )
    return {
        OURS: lambda: convolution.qlinear_conv(
            x, x_scale, zero, w, w_scale, none, y_scale, zero, pads=pads, threads=threads
        ),
        RUNTIME: theirs,
    }
