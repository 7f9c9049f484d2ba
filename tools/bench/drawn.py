"""What `onnx_compress.testing.models` draws: how much of it is valid, of which operators, how fast.

    python -m onnx_compress.bench.drawn --count 20000
    python -m onnx_compress.bench.drawn --count 1000 --seed 7000 --parts validity

A model counts as valid if onnx's checker accepts it with shapes inferred, and ONNX Runtime loads it
and runs it, with its optimizations and without, and gives outputs of the shapes declared.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from onnx import GraphProto, ModelProto, ValueInfoProto
from onnx.helper import np_dtype_to_tensor_dtype

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.testing import feed_of, models, operators

FLOATS = ("float32", "float16", "float64")
SETTINGS: dict[str, Callable[[], SearchStrategy[ModelProto]]] = {
    "default": models,
    "closed, no bodies": lambda: models(subgraphs=False, dynamic=False),
    "functions": lambda: models(functions=True),
    "operator sets 11 to 23": lambda: models(opsets=(11, 23)),
    "all types": lambda: models(dtypes=FLOATS),
    "all of these, 30 nodes": lambda: models(
        max_nodes=30, dtypes=FLOATS, opsets=(11, 23), functions=True
    ),
}
PARTS = ("speed", "coverage", "validity")
_BATCH = 250


def drawn(strategy: SearchStrategy[ModelProto], count: int, start: int = 0) -> Iterator[ModelProto]:
    """So many models, the same for the same `start`."""
    for at in range(0, count, _BATCH):
        yield from _batch(strategy, min(_BATCH, count - at), start + at)


def _batch(strategy: SearchStrategy[ModelProto], count: int, start: int) -> list[ModelProto]:
    found: list[ModelProto] = []

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(model: ModelProto) -> None:
        found.append(model)

    collect()
    return found


def wrong(model: ModelProto) -> str:
    """What is wrong with a model; "" if nothing is."""
    try:
        onnx.checker.check_model(model, full_check=True)
        found = from_proto(model)
        for optimize in (False, True):
            session = Session(found, optimize=optimize)
            for size in (1, 3):
                outputs = session.run(feed_of(found, size=size))
                for info, output in zip(model.graph.output, outputs, strict=True):
                    if not _declared(info, size, output):
                        return f"{info.name} is {output.dtype} {output.shape}, declared otherwise"
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return f"onnx: {error}"
    except CompressError as error:
        return f"ONNX Runtime: {error}"
    return ""


def _declared(info: ValueInfoProto, size: int, output: Any) -> bool:
    kind = info.type.tensor_type
    shape = tuple(size if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    return bool(output.shape == shape and np_dtype_to_tensor_dtype(output.dtype) == kind.elem_type)


def used(model: ModelProto) -> set[str]:
    """Operators in a model, at any depth, and in its functions."""
    return set(_operators(model.graph)) | {n.op_type for f in model.functions for n in f.node}


def _operators(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        if not node.domain:
            yield node.op_type
        yield from chain.from_iterable(_operators(a.g) for a in node.attribute if a.HasField("g"))


def validity(count: int, start: int) -> bool:
    """Print how many are valid, setting by setting."""
    each = -(-count // len(SETTINGS))
    total = good = 0
    for name, make in SETTINGS.items():
        reasons = Counter(map(wrong, drawn(make(), each, start)))
        number = sum(reasons.values())
        total, good = total + number, good + reasons[""]
        print(f"{name:24} {reasons.pop('') / number:9.3%} of {number} valid", flush=True)
        for reason, times in reasons.most_common(8):
            print(f"    {times} times {reason[:400]}")
    print(f"{'together':24} {good / total:9.3%} of {total} valid")
    return good / total >= 0.999


def coverage(count: int, start: int) -> None:
    """Print the share of default models that have an operator."""
    seen = Counter(op for model in drawn(models(), count, start) for op in used(model))
    print(f"\n{len(seen)} of {len(operators())} operators in {count} models, and their shares:")
    rows = [f"{op} {times / count:.1%}" for op, times in seen.most_common()]
    for at in range(0, len(rows), 5):
        print("  " + "".join(f"{row:26}" for row in rows[at : at + 5]))
    print("  not seen:", ", ".join(op for op in operators() if op not in seen) or "none")


def speed(count: int, start: int) -> None:
    """Print how many models are drawn in a second, Hypothesis's own work included."""
    begun = time.perf_counter()
    sizes = [len(model.graph.node) for model in drawn(models(), count, start)]
    seconds = time.perf_counter() - begun
    print(f"\n{len(sizes) / seconds:.0f} models a second, of {sum(sizes) / len(sizes):.1f} nodes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 1 if fewer than 99.9 % are valid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="models to check")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=PARTS, help="all of them")
    asked = parser.parse_args(arguments)
    if "speed" in asked.parts:
        speed(min(asked.count, 1000), asked.seed)
    if "coverage" in asked.parts:
        coverage(min(asked.count, 2000), asked.seed)
    return 0 if "validity" not in asked.parts or validity(asked.count, asked.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
