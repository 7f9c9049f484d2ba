"""Effective weights: what operators multiply by or pick from, whatever form it is stored in.

    MatMul(x, Mul(Cast(q), s))                       q s
    Mul(Cast(MatMulInteger(Q(x), q)), sx s)          q s
    Mul(Cast(Gather(q, ids)), Gather(s, ids))        q s
    MatMulNBits(x, packed, s, z)                     (unpacked - z) s

The way back from a graph to numbers, written without a look at the forms that made it: so that one
can be checked by the other, and models of other tools can be read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array, dims, element_type, np_dtype, type_name
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Graph, Node, Value
from onnx_compress.ir.weights.operators import OPERATORS
from onnx_compress.ir.weights.packed import spread, unpacked

_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
_LINEAR = frozenset(
    "Identity Cast Sub Mul DequantizeLinear Transpose Reshape Squeeze Unsqueeze Flatten".split()
)
_SCALED = ("Cast", "Mul")
_PICKED = ("Cast", "Sub", "Mul", "DequantizeLinear")
_FARTHEST = 4  # nodes between DynamicQuantizeLinear and the product


@dataclass(frozen=True, eq=False)
class Effective:
    """One operator's weight.

    `node`, `slot`: who reads it, or its codes. `end`: the value that stands for what the plain
    operator would give. `decode(None)` gives the numbers as that operator would read them, columns
    x rows for products, and None where that cannot be told; `decode(a)` those for other codes.
    `codes`: the stored tensor of them. `scales`: what one step of the codes is worth, element by
    element; None where codes have no steps.
    """

    node: Node
    slot: int
    end: Value
    decode: Callable[[Array | None], Array | None]
    codes: Value | None
    scales: Callable[[], Array | None]

    @property
    def name(self) -> str:
        """What the node is called."""
        return self.node.name

    @property
    def picks(self) -> bool:
        """Whether rows are picked, not multiplied."""
        return self.node.op in ("Gather", "com.microsoft.GatherBlockQuantized")

    def numbers(self) -> Array | None:
        """The weight as the plain operator would read it."""
        return self.decode(None)

    def steps(self) -> Array | None:
        """What one step of the codes is worth; None where they have none."""
        return self.scales()


def effective(model: Model, graphs: list[Graph] | None = None) -> list[Effective]:
    """All weights of all operators that are known, at any depth, in the order of the graphs."""
    found: list[Effective] = []
    folded = Folded(model)
    for graph in graphs or list(model.graphs()):
        for node in graph.sorted():
            found += of_node(model, node, folded)
    return found


def of_node(model: Model, node: Node, folded: Folded | None = None) -> list[Effective]:
    """The weights that one operator reads."""
    folded = folded or Folded(model)
    row = _CODED.get(node.op)
    if row is not None:
        return list(row(model, node, folded))
    return list(_plain(model, node, folded))


# ------------------------------------------------------------------------------- plain operators


def _plain(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    operator = OPERATORS.get(node.op)
    for slot, read in operator.slots.items() if operator else ():
        value = node.input(slot)
        if value is None or not folded.is_constant(value):
            continue
        if operator is not None and operator.gathers:
            picked = _picked(model, node)
            if picked is not None:
                yield picked
                continue
        shape = _shape(model, value)
        if shape is not None and isinstance(read(node, shape), No):
            continue
        codes, linear = _codes(model, value)
        decode = _operand(model, value, codes)
        steps = _steps(model, codes if linear else None, decode)
        yield Effective(node, slot, node.output, decode, codes, steps)


def _steps(
    model: Model, codes: Value | None, decode: Callable[[Array | None], Array | None]
) -> Callable[[], Array | None]:
    """Of codes that are decoded linearly: what ones are decoded to, less what zeros are."""

    def steps() -> Array | None:
        tensor = model.tensor(codes)
        if tensor is None or "INT" not in type_name(element_type(tensor)):
            return None
        zeros = np.zeros(dims(tensor), np_dtype(element_type(tensor)))
        low, high = decode(zeros), decode(np.ones_like(zeros))
        return None if low is None or high is None else np.abs(high - low)

    return steps


def _operand(
    model: Model, value: Value, codes: Value | None
) -> Callable[[Array | None], Array | None]:
    def decode(other: Array | None) -> Array | None:
        given = {codes: other} if codes is not None and other is not None else {}
        return Folded(model, given).array(value)

    return decode


def _shape(model: Model, value: Value) -> tuple[int, ...] | None:
    """Where it is stored just so; else it is told when it is decoded."""
    tensor = model.tensor(value)
    return None if tensor is None else dims(tensor)


def _codes(model: Model, value: Value) -> tuple[Value | None, bool]:
    """The largest stored tensor that a value is computed from, and whether linearly."""
    largest, size, linear = None, 0, True
    todo, seen = [value], {value}
    while todo:
        at = todo.pop()
        tensor = model.tensor(at)
        if tensor is not None:
            count = int(np.prod(dims(tensor), dtype=np.int64))
            if count > size:
                largest, size = at, count
        elif at.producer is not None:
            linear &= at.producer.op in _LINEAR
            new = [v for v in at.producer.inputs if v is not None and v not in seen]
            seen.update(new)
            todo += new
    return largest, linear


def _picked(model: Model, node: Node) -> Effective | None:
    """Rows picked as codes and decoded after that; None where they are picked as they are."""
    table, ids = node.input(0), node.input(1)
    tensor = model.tensor(table)
    if tensor is None or ids is None or type_name(element_type(tensor)) in ("FLOAT", "DOUBLE"):
        return None
    shape = dims(tensor)
    if not shape:
        return None
    axis = node.attribute("axis", 0) % len(shape)
    given = {ids: np.arange(shape[axis])}
    end = _followed(node.output, _PICKED, Folded(model, given))
    plain = type_name(element_type(tensor)) in _FLOATS
    if end is node.output and not plain:
        return None  # a table of integers, and no weight

    def decode(other: Array | None) -> Array | None:
        replaced = {table: other} if table is not None and other is not None else {}
        return Folded(model, {**given, **replaced}).array(end)

    return Effective(node, 0, end, decode, table, _steps(model, table, decode))


def _followed(value: Value, ops: tuple[str, ...], folded: Folded) -> Value:
    """The last value of a chain of such nodes, each the sole reader, with all else known."""
    while not value.exits and len(value.uses) == 1:
        ((node, _),) = value.uses
        if node.op not in ops or node.graph is not value.graph:
            break
        if not all(folded.is_constant(v) for v in node.inputs if v is not None and v is not value):
            break
        value = node.output
    return value


# ------------------------------------------------------------------------------ integer products


def _integer_product(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """MatMulInteger, and what scales its sums."""
    codes, zero = node.input(1), node.input(3)
    scale = _input_scale(node.input(0))
    if model.tensor(codes) is None or codes is None or scale is None:
        return
    one = {scale: np.ones((), np.float32)}
    acc = node.output
    end = _followed(acc, _SCALED, Folded(model, {**one, acc: np.zeros((1, 1), np.int32)}))

    def decode(other: Array | None) -> Array | None:
        array = model.constant(codes) if other is None else other
        shift = None if zero is None else folded.array(zero)
        if array is None or (zero is not None and shift is None):
            return None
        wide = array.astype(np.int32) - (0 if shift is None else shift.astype(np.int32))
        return Folded(model, {**one, acc: wide}).array(end)

    yield Effective(node, 1, end, decode, codes, _steps(model, codes, decode))


def _input_scale(value: Value | None) -> Value | None:
    """The scale that DynamicQuantizeLinear gives with what is multiplied."""
    for _ in range(_FARTHEST):
        maker = value.producer if value is not None else None
        if maker is None:
            return None
        if maker.op == "DynamicQuantizeLinear":
            return maker.outputs[1] if len(maker.outputs) > 1 else None
        if maker.op not in ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze"):
            return None
        value = maker.input(0)
    return None


def _integer_convolution(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """ConvInteger, and what scales its sums."""
    codes, zero = node.input(1), node.input(3)
    scale = _input_scale(node.input(0))
    tensor = model.tensor(codes)
    if tensor is None or codes is None or scale is None:
        return
    rank, rows = len(dims(tensor)), dims(tensor)[0]
    ones = np.ones((1, rows, *(1,) * (rank - 2)), np.int32)
    known = Folded(model, {scale: np.ones((), np.float32), node.output: ones})
    end = _followed(node.output, _SCALED, known)

    def decode(other: Array | None) -> Array | None:
        factor = known.array(end)
        shift = None if zero is None else folded.array(zero)
        return _affine(model, codes, shift, factor, rows, other)

    yield Effective(node, 1, end, decode, codes, _steps(model, codes, decode))


def _affine(
    model: Model,
    codes: Value | None,
    zero: Array | None,
    scale: Array | None,
    rows: int,
    other: Array | None,
) -> Array | None:
    """(q - z) s with scales along the first axis."""
    array = model.constant(codes) if other is None else other
    if array is None or scale is None:
        return None
    shape = (-1, *(1,) * (array.ndim - 1))
    wide = array.astype(np.int32)
    if zero is not None:
        wide = wide - zero.astype(np.int32).reshape(shape)
    return np.asarray(wide.astype(np.float32) * scale.reshape(-1).astype(np.float32).reshape(shape))


@dataclass(frozen=True)
class _Slots:
    """Where an operator has codes, scale and zero point; `rows_first`: scales along axis 0."""

    codes: int
    scale: int
    zero: int
    rows_first: bool = False

    def __call__(self, model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
        codes, scale, zero = (node.input(at) for at in (self.codes, self.scale, self.zero))
        if model.tensor(codes) is None or codes is None:
            return
        turned = self.rows_first or bool(node.attribute("transB", 0))

        def decode(other: Array | None) -> Array | None:
            array = model.constant(codes) if other is None else other
            factor, shift = folded.array(scale), folded.array(zero)
            if array is None or factor is None or (zero is not None and shift is None):
                return None
            ones = (1,) * (array.ndim - 1)
            place = (-1, *ones) if turned else (*ones, -1)
            wide = array.astype(np.int32)
            if shift is not None:
                wide = wide - shift.astype(np.int32).reshape(place)
            return np.asarray(wide.astype(np.float32) * factor.reshape(place))

        yield Effective(node, self.codes, node.output, decode, codes, _steps(model, codes, decode))


# ------------------------------------------------------------------------------------ packed bits


def _blocks(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """MatMulNBits: [N, blocks, bytes] with a scale and a zero point for each block."""
    value = node.input(1)
    if model.tensor(value) is None:
        return

    def decode(_: Array | None) -> Array | None:
        packed, scale, zero = (folded.array(node.input(at)) for at in (1, 2, 3))
        if packed is None or scale is None or (node.input(3) is not None and zero is None):
            return None
        codes, scale, zero = unpacked(node.attribute, packed, scale, zero)
        wide = (codes.astype(np.float32) - zero[..., None]) * scale[..., None]
        flat = wide.reshape(len(wide), -1)[:, : node.attribute("K")]
        return np.asarray(flat.T)

    def steps() -> Array | None:
        scale = folded.array(node.input(2))
        if scale is None:
            return None
        block, inner = node.attribute("block_size", 32), node.attribute("K")
        wide = scale.reshape(node.attribute("N"), -1).astype(np.float32)
        return np.asarray(np.repeat(wide, block, 1)[:, :inner].T)

    yield Effective(node, 1, node.output, decode, value, steps)


def _picked_blocks(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """GatherBlockQuantized: (q - z) s, blocks along the quantized axis."""
    data, scales, zeros = node.input(0), node.input(2), node.input(3)
    if model.tensor(data) is None or data is None:
        return

    def decode(_: Array | None) -> Array | None:
        codes, scale = folded.array(data), folded.array(scales)
        zero = folded.array(zeros)
        if codes is None or scale is None or (zeros is not None and zero is None):
            return None
        return picked_rows(node, codes, scale, zero)

    def steps() -> Array | None:
        scale, table = folded.array(scales), decode(None)
        if scale is None or table is None:
            return None
        axis, block = node.attribute("quantize_axis", 1), node.attribute("block_size", 128)
        places = tuple(slice(0, size) for size in table.shape)
        return np.asarray(np.repeat(scale.astype(np.float32), block, axis)[places])

    yield Effective(node, 0, node.output, decode, data, steps)


def picked_rows(node: Node, codes: Array, scale: Array, zero: Array | None) -> Array:
    """The whole table of GatherBlockQuantized."""
    bits = node.attribute("bits", 4)
    axis = node.attribute("quantize_axis", 1) % codes.ndim
    middle = 0
    if codes.dtype == np.uint8:  # packed along the last axis, signed about the middle
        codes = spread(codes, bits)
        middle = 1 << (bits - 1)
        zero = None if zero is None else spread(zero, bits)[..., : scale.shape[-1]]
    elif codes.dtype.name == "uint4":
        middle = 8
    block = node.attribute("block_size", 128)
    wide = codes.astype(np.float32)
    places = tuple(slice(0, size) for size in wide.shape)
    shift = middle if zero is None else np.repeat(zero.astype(np.float32), block, axis)[places]
    return np.asarray((wide - shift) * np.repeat(scale.astype(np.float32), block, axis)[places])


_CODED: dict[str, Callable[[Model, Node, Folded], Iterator[Effective]]] = {
    "MatMulInteger": _integer_product,
    "ConvInteger": _integer_convolution,
    "QLinearMatMul": _Slots(3, 4, 5),
    "QLinearConv": _Slots(3, 4, 5, rows_first=True),
    "com.microsoft.QGemm": _Slots(3, 4, 5),
    "com.microsoft.MatMulIntegerToFloat": _Slots(1, 3, 5),
    "com.microsoft.DynamicQuantizeMatMul": _Slots(1, 2, 3),
    "com.microsoft.MatMulNBits": _blocks,
    "com.microsoft.GatherBlockQuantized": _picked_blocks,
}
