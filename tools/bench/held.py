"""Passes under check_pass on many random models: how often each does something, and what fails.

    python -m onnx_compress.bench.held --count 10000
    python -m onnx_compress.bench.held --count 1000 --seed 7000 "quant(bits=8)"

Models are those of `onnx_compress.testing.models` with all that it draws by default; every fourth
has functions, other types and operator sets besides. Models of one --seed follow those of the seed
before it, so that a long run may be done in slices. Nothing is made smaller: a failure comes with a
test that repeats it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from onnx import ModelProto

from onnx_compress.bench.drawn import FLOATS, drawn
from onnx_compress.passes import Pass, Pipeline
from onnx_compress.testing import Failed, check_mutations, check_pass, models

PASSES = (
    "fold",
    "quant(bits=8)",
    "quant(bits=8, activations='float')",
    "quant(bits=16)",
    "prune(sparsity=0.5)",
)
_SLICE = 1000  # models of one kind in a row
_ODD = 4  # one of so many is of the odd kind
_MUTATED = 100  # one of so many is also written differently


def some(count: int, start: int) -> Iterator[ModelProto]:
    """So many models, of both kinds."""
    odd = count // _ODD
    usual = drawn(models(), count - odd, start)
    return chain(
        usual,
        drawn(models(functions=True, dtypes=FLOATS, opsets=(11, 23)), odd, start),
    )


def held(pass_: Pass, found: Iterator[ModelProto]) -> Counter[str]:
    """How many models there were, how many it changed, and how many failed each check."""
    counts: Counter[str] = Counter()
    for number, model in enumerate(found):
        counts["models"] += 1
        try:
            trial = check_pass(pass_, model)
            counts["changed"] += trial.report is not None and trial.report.modified
            if number % _MUTATED == 0:
                check_mutations(pass_, model, seed=number)
                counts["mutated"] += 1
        except Exception as error:
            kind = error.check if isinstance(error, Failed) else type(error).__name__
            counts[f"failed: {kind}"] += 1
            notes = getattr(error, "__notes__", [])
            print(f"\n{pass_}: {error}", *notes, sep="\n", flush=True)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each pass; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("passes", nargs="*", default=[*PASSES], metavar="PASS")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="models for each")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args(arguments)
    failed = False
    for text in options.passes:
        (pass_,) = Pipeline.parse(text).passes
        counts: Counter[str] = Counter()
        for at in range(0, options.count, _SLICE):
            part = min(_SLICE, options.count - at)
            counts += held(pass_, some(part, options.seed + at))
        failed |= any(name.startswith("failed") for name in counts)
        print(f"{text}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
