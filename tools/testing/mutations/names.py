"""Other names for everything but inputs and outputs."""

from onnx import ModelProto

from onnx_compress.testing.mutations.base import Rng, copy, graphs

_LETTERS = "äλж漢 /:%é"


def _renamed(model: ModelProto, make: "dict[str, str]", nodes: str) -> ModelProto:
    out = copy(model)
    for at, graph in enumerate(graphs(out.graph)):
        for number, node in enumerate(graph.node):
            node.name = f"{nodes}{at}_{number}"
            for slot, name in enumerate(node.input):
                node.input[slot] = make.get(name, name)
            for slot, name in enumerate(node.output):
                node.output[slot] = make.get(name, name)
        for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
            entry.name = make.get(entry.name, entry.name)
    return out


def _inner(model: ModelProto) -> list[str]:
    kept = {info.name for info in (*model.graph.input, *model.graph.output)}
    found: dict[str, None] = {}
    for graph in graphs(model.graph):
        for name in (tensor.name for tensor in graph.initializer):
            found[name] = None
        for info in (*graph.input, *graph.output):
            found[info.name] = None
        for node in graph.node:
            found |= dict.fromkeys(name for name in node.output if name)
    return [name for name in found if name not in kept]


def rename_all(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Every value and node gets another name, in another order of the alphabet."""
    names = _inner(model)
    numbers = rng.permutation(len(names))
    made = {name: f"t{number}" for name, number in zip(names, numbers, strict=True)}
    taken = {info.name for info in (*model.graph.input, *model.graph.output)}
    if taken & set(made.values()):
        made = {name: f"other.{new}" for name, new in made.items()}
    return _renamed(model, made, "node")


def unicode_names(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Names of letters from everywhere, with spaces and slashes."""
    names = _inner(model)
    shift = int(rng.integers(len(_LETTERS)))
    letters = _LETTERS[shift:] + _LETTERS[:shift]
    return _renamed(model, {n: f"{letters}{at}" for at, n in enumerate(names)}, letters)
