"""Which weight of a compressed model is which of the original's.

By the name of the node that reads it; else by what the node gives; else by place: the first of
each operator and shape is the first, where there are as many on both sides.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights.effective import Effective


@dataclass(frozen=True)
class Pair:
    """`original` and `compressed` are read by operators that stand for each other."""

    original: Effective
    compressed: Effective

    @property
    def name(self) -> str:
        """What it is called: by the original's tensor, else by the node."""
        codes = self.original.codes
        return codes.name if codes is not None else self.original.name


def pairs(
    original: Sequence[Effective], compressed: Sequence[Effective]
) -> tuple[list[Pair], list[Effective]]:
    """The pairs, in the order of the compressed model, and what of it has no partner."""
    left = list(original)
    found: dict[Effective, Effective] = {}
    for key in (_named, _given):
        table = _unique(left, key)
        for weight in compressed:
            partner = table.get(key(weight)) if weight not in found else None
            if partner is not None and partner.picks == weight.picks:
                found[weight] = partner
        taken = set(found.values())
        left = [weight for weight in left if weight not in taken]
    rest = [weight for weight in compressed if weight not in found]
    found |= _by_place(left, rest)
    made = [Pair(found[weight], weight) for weight in compressed if weight in found]
    return made, [weight for weight in compressed if weight not in found]


def _named(weight: Effective) -> Hashable:
    return (weight.node.proto.name or None) and (weight.node.proto.name, _slot(weight))


def _given(weight: Effective) -> Hashable:
    return weight.end.name, _slot(weight)


def _slot(weight: Effective) -> int:
    """Recurrent operators have two weights; of all others the one that there is."""
    return weight.slot if weight.node.op in ("LSTM", "GRU", "RNN") else 0


def _unique(
    weights: Iterable[Effective], key: Callable[[Effective], Hashable]
) -> dict[Hashable, Effective]:
    table: dict[Hashable, Effective | None] = {}
    for weight in weights:
        name = key(weight)
        if name:
            table[name] = None if name in table else weight
    return {name: weight for name, weight in table.items() if weight is not None}


def _by_place(
    original: Sequence[Effective], compressed: Sequence[Effective]
) -> dict[Effective, Effective]:
    before, after = _classes(original), _classes(compressed)
    found: dict[Effective, Effective] = {}
    for kind, members in after.items():
        others = before.get(kind, [])
        if len(others) == len(members):
            found |= dict(zip(members, others, strict=True))
    return found


def _classes(weights: Sequence[Effective]) -> dict[Hashable, list[Effective]]:
    found: dict[Hashable, list[Effective]] = defaultdict(list)
    for weight in weights:
        array = weight.numbers()
        if array is not None:
            found[weight.picks, tuple(sorted(array.shape))].append(weight)
    return found


def expected(pair: Pair) -> Array | None:
    """What the compressed weight should be near: the original's operand, turned like it.

    Products of the compressed model hold columns x rows, with Gemm's alpha in it.
    """
    array = pair.original.numbers()
    if array is None:
        return None
    turned, alpha = _gemm(pair)
    array = array.T if turned else array
    return array if alpha == 1.0 else array * array.dtype.type(alpha)


def restored(pair: Pair, array: Array) -> Array:
    """The compressed weight as the original's operator would hold it."""
    turned, alpha = _gemm(pair)
    array = array.T if turned else array
    return array if alpha == 1.0 else array / array.dtype.type(alpha or 1.0)


def _gemm(pair: Pair) -> tuple[bool, float]:
    """Whether Gemm's weight lies the other way round now, and the factor that went into it."""
    one, other = pair.original.node, pair.compressed.node
    if one.op != "Gemm" or pair.original.slot != 1:
        return False, 1.0
    turned = bool(one.attribute("transB", 0)) != bool(other.attribute("transB", 0))
    return turned, 1.0 if other.op == "Gemm" else float(one.attribute("alpha", 1.0))
