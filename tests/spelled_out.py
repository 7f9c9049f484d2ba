"""Kernels for AVX-512 VNNI on any processor: its instructions as the arithmetic they stand for.

    vpdpbusd   acc + u0 s0 + u1 s1 + u2 s2 + u3 s3      becomes      shifts, masks, products, sums

LLVM splits vectors of 512 bits into what the processor has. All else of the path stays as it is:
layouts, tiles, loops, edges. Tests marked `spelled_out` run inside of `processor()`. That the
instructions are what they are said to be here was seen under emulation: docs/benchmarks.md.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from llvmlite import ir

from onnx_compress.kernels.machine import paths, storage
from onnx_compress.kernels.simd import lanes
from onnx_compress.kernels.simd.vectors import I16, I32, call, fill, vector

PATH = "avx512vnni"
LANES, WORDS = vector(I32, 16), vector(I16, 32)


def _signed(builder, value, kind, part, parts):
    """Part `part` of each element, counted from the lowest bits, with its sign."""
    width = kind.element.width // parts
    up = builder.shl(value, fill(kind, width * (parts - 1 - part)))
    return builder.ashr(up, fill(kind, width * (parts - 1)))


def _unsigned(builder, value, kind, part, parts):
    width = kind.element.width // parts
    down = builder.lshr(value, fill(kind, width * part))
    return builder.and_(down, fill(kind, 2**width - 1))


def vpdpbusd(builder, acc, a, b):
    """acc + sum of four: unsigned bytes of a times signed bytes of b, in lanes of 32 bits."""
    a, b = builder.bitcast(a, LANES), builder.bitcast(b, LANES)
    for part in range(4):
        u, s = _unsigned(builder, a, LANES, part, 4), _signed(builder, b, LANES, part, 4)
        acc = builder.add(acc, builder.mul(u, s))
    return acc


def vpmaddubsw(builder, a, b):
    """Sums of two: unsigned bytes of a times signed bytes of b, saturated to 16 bits."""
    a, b = builder.bitcast(a, WORDS), builder.bitcast(b, WORDS)
    products = [
        builder.mul(_unsigned(builder, a, WORDS, part, 2), _signed(builder, b, WORDS, part, 2))
        for part in range(2)
    ]
    return call(builder, "llvm.sadd.sat.v32i16", WORDS, *products)


def vpmaddwd(builder, a, b):
    """Sums of two products of 16 bits, in lanes of 32."""
    a, b = builder.bitcast(a, LANES), builder.bitcast(b, LANES)
    products = [
        builder.mul(*(_signed(builder, value, LANES, part, 2) for value in (a, b)))
        for part in range(2)
    ]
    return builder.add(*products)


INSTRUCTIONS = {
    "llvm.x86.avx512.vpdpbusd.512": vpdpbusd,
    "llvm.x86.avx512.pmaddubs.w.512": vpmaddubsw,
    "llvm.x86.avx512.pmaddw.d.512": vpmaddwd,
}


def _call(builder, name, result, *arguments):
    """A function of its own for each instruction: LLVM has less to do than with many copies."""
    spelled = INSTRUCTIONS.get(name)
    if spelled is None:
        return call(builder, name, result, *arguments)
    own = name.replace("llvm.", "spelled.")
    function = builder.module.globals.get(own)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, own)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block())
        inside.ret(spelled(inside, *function.args))
    return builder.call(function, arguments)


@contextmanager
def processor() -> Iterator[None]:
    """A processor that has them: the path can be taken, and what is compiled is kept apart."""
    found, folder = paths.available(), storage._folder
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:32]

    def apart() -> Path:
        return folder().with_suffix(f".{own}")

    with (
        mock.patch.object(lanes, "call", _call),
        mock.patch.object(paths, "available", return_value=(*found[:-1], PATH, found[-1])),
        mock.patch.object(storage, "_folder", apart),
    ):
        yield
