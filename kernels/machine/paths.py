"""Which instructions the kernels use: the best that the processor has, or the one asked for.

    avx512vnni > avx2 > portable

All give the same results: integers, and sums whose order is fixed, bit for bit; other float sums
up to rounding. `ONNX_COMPRESS_KERNELS` forces one for the whole process, `path` for a call.
"""

import functools
import os

VARIABLE = "ONNX_COMPRESS_KERNELS"

NEEDS = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx2", "fma"),
    "avx2": ("avx2", "fma"),
    "portable": (),
}


@functools.cache
def available() -> tuple[str, ...]:
    """The paths that can run here, the fastest first."""
    features = _features()
    return tuple(path for path, needs in NEEDS.items() if features.issuperset(needs))


def select(path: str | None = None) -> str:
    """The path to take: `path`, else the environment's, else the fastest.

    Raises ValueError for a path that does not exist or cannot run here.
    """
    wanted = path or os.environ.get(VARIABLE)
    if not wanted:
        return available()[0]
    if wanted not in available():
        kind = "cannot run on this processor" if wanted in NEEDS else "is no path of the kernels"
        raise ValueError(f"{wanted!r} {kind}; there are {', '.join(available())}")
    return wanted


def _features() -> frozenset[str]:
    """Features that numba compiles for: those of the processor, unless its settings say less."""
    import llvmlite.binding
    import numba

    host = {name for name, on in llvmlite.binding.get_host_cpu_features().items() if on}
    config = numba.config
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return frozenset(host)
    told = {part[1:] for part in (config.CPU_FEATURES or "").split(",") if part[:1] == "+"}
    return frozenset(host & told)
