"""Products of codes within 32-bit lanes: what differs from processor to processor.

    lane l of acc  +=  sum_g a[l, g] b[l, g]          g codes in a lane: 4 bytes, or 2 of 16 bits

A tile loads lanes of `b`, broadcasts one lane of `a` to all, and calls `dot`; all else it shares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding

from onnx_compress.kernels.simd.vectors import I8, I16, I32, call, fill, load, vector


@dataclass(frozen=True)
class Lanes:
    """`width`: lanes in a vector; `group`: codes in one; `vectors`: of B in a tile.

    `load_b(builder, address, offset)` gives a vector of lanes from width * group bytes,
    `dot(builder, acc, a, b)` adds their product.
    """

    width: int
    group: int
    vectors: int
    load_b: Callable[[Any, Any, Any], Any]
    dot: Callable[[Any, Any, Any, Any], Any]

    @property
    def columns(self) -> int:
        """Of a tile."""
        return self.width * self.vectors


def _widened(builder: Any, address: Any, offset: Any) -> Any:
    """16 signed bytes as 16 bits each, two to a lane: one vpmovsxbw."""
    pairs = builder.sext(load(builder, address, offset, vector(I8, 16)), vector(I16, 16))
    return builder.bitcast(pairs, vector(I32, 8))


def _bytes(width: int) -> Callable[[Any, Any, Any], Any]:
    return lambda builder, address, offset: load(builder, address, offset, vector(I32, width))


def _pairs(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    """Pairs of 16 bits: vpmaddwd, which cannot overflow with what were bytes."""
    words = vector(I16, 16)
    a, b = builder.bitcast(a, words), builder.bitcast(b, words)
    return builder.add(acc, call(builder, "llvm.x86.avx2.pmadd.wd", acc.type, a, b))


def _saturating(width: int, names: tuple[str, str]) -> Callable[[Any, Any, Any, Any], Any]:
    """Four bytes by vpmaddubsw, which saturates to 16 bits, and vpmaddwd with ones."""
    codes, words = vector(I8, 4 * width), vector(I16, 2 * width)

    def dot(builder: Any, acc: Any, a: Any, b: Any) -> Any:
        a, b = builder.bitcast(a, codes), builder.bitcast(b, codes)
        pairs = call(builder, names[0], words, a, b)
        return builder.add(acc, call(builder, names[1], acc.type, pairs, fill(words, 1)))

    return dot


def vnni(builder: Any, acc: Any, a: Any, b: Any) -> Any:
    """Four bytes: vpdpbusd."""
    if llvmlite.binding.llvm_version_info[0] >= 22:  # its operands were lanes before
        a, b = (builder.bitcast(value, vector(I8, 64)) for value in (a, b))
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", acc.type, acc, a, b)


_AVX2 = ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd")
_AVX512 = ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512")

# "bytes" is exact where no pair of products can leave 16 bits, or the path has VNNI
LANES = {
    ("avx2", "pairs"): Lanes(8, 2, 2, _widened, _pairs),
    ("avx2", "bytes"): Lanes(8, 4, 2, _bytes(8), _saturating(8, _AVX2)),
    ("avx512vnni", "bytes"): Lanes(16, 4, 4, _bytes(16), vnni),
    ("avx512vnni", "saturating"): Lanes(16, 4, 4, _bytes(16), _saturating(16, _AVX512)),
}
