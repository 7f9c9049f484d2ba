"""Passes under check_pass on many random models: how often each does something, and what fails.

    python -m onnx_compress.bench.held --count 10000
    python -m onnx_compress.bench.held --count 1000 --seed 7000 "quant(bits=8)"
    python -m onnx_compress.bench.held --count 200 --mutated 1 "prune(channels=0.4)"

Models are those of `onnx_compress.testing.models` with all that it draws by default; every fourth
has functions, other types and operator sets besides. Models of one --seed follow those of the seed
before it, so that a long run may be done in slices. Nothing is made smaller: a failure comes with a
test that repeats it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from onnx import ModelProto

from onnx_compress.bench.drawn import FLOATS, drawn
from onnx_compress.passes import Pass, Pipeline
from onnx_compress.testing import Failed, check_mutations, check_pass, models

PASSES = (
    "fold",
    "quant(bits=8)",
    "quant(bits=8, activations='float')",
    "quant(bits=16)",
    "quant(bits=4)",
    "prune(sparsity=0.5)",
    "prune(channels=0.4)",
)
_SLICE = 200  # models of one kind in a row
_ODD = 4  # one of so many is of the odd kind


def some(count: int, start: int) -> Iterator[ModelProto]:
    """So many models, of both kinds."""
    odd = count // _ODD
    yield from drawn(models(), count - odd, start)
    yield from drawn(models(functions=True, dtypes=FLOATS, opsets=(11, 23)), odd, start)


def hold(pass_: Pass, model: ModelProto, mutations: bool) -> Iterator[str]:
    """What is to be counted of one model. Prints what fails."""
    yield "models"
    try:
        trial = check_pass(pass_, model)
        if trial.report is not None and trial.report.modified:
            yield "changed"
        if mutations:
            check_mutations(pass_, model)
            yield "mutated"
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        print(f"\n{pass_}: {error}", *notes, sep="\n", flush=True)
        yield f"failed: {error.check if isinstance(error, Failed) else type(error).__name__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each pass; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("passes", nargs="*", default=[*PASSES], metavar="PASS")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="models")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--mutated", type=int, default=100, metavar="N", help="one of N is also written differently"
    )
    options = parser.parse_args(arguments)
    passes = [pass_ for text in options.passes for pass_ in Pipeline.parse(text).passes]
    counts: dict[Pass, Counter[str]] = {pass_: Counter() for pass_ in passes}
    for at in range(0, options.count, _SLICE):
        part = min(_SLICE, options.count - at)
        for number, model in enumerate(some(part, options.seed + at)):
            for pass_ in passes:
                counts[pass_].update(hold(pass_, model, number % options.mutated == 0))
    for pass_, found in counts.items():
        print(f"{pass_}: " + ", ".join(f"{number} {name}" for name, number in found.items()))
    return int(any(name.startswith("failed") for found in counts.values() for name in found))


if __name__ == "__main__":
    sys.exit(main())
