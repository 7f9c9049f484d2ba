"""Emitted: what was put into the graph is what was chosen.

    form --emit--> nodes --read back--> numbers   ==   form.decode()     bit for bit

Done whenever a form is emitted, so that a wrong axis, layout or zero point is named when it is
made. Reading back knows nothing of forms (see `ir/weights/effective`); what it does not know is
read by what it makes of the identity, or of all indices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.graph import Graph, Node, Value
from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.storage import PIECE
from onnx_compress.ir.runtime import fits
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.effective import Effective, of_node
from onnx_compress.ir.weights.forms import Form
from onnx_compress.passes.verify.diagnosis import diagnose

_ROUNDING = 1e-5  # relative, where a form cannot be read back but by products
_LARGEST = 1 << 34  # multiply-accumulates of a product with the identity


def emit(form: Form, weight: Weight) -> tuple[str, ...]:
    """Put a weight into the graph in this form, and read it back.

    Gives the names of operators for which that cannot be done. Raises VerificationError where
    the graph holds other numbers than the form, and what `form.emit` raises.
    """
    sockets = [_Socket.of(use) for use in weight.uses]
    before = {graph: set(graph.nodes) for graph in weight.model.graphs()}
    short = weight.nbytes > PIECE and not fits(weight.model)
    form.emit(weight)
    if not sockets:
        return ()
    if short:
        return tuple(socket.use.node.name for socket in sockets)
    made = [n for g in weight.model.graphs() for n in g.nodes if n not in before.get(g, set())]
    stored, unread = form.decode(), []
    for socket in sockets:
        problem = _problem(socket, stored, weight, made)
        if problem is None:
            unread.append(socket.use.node.name)
        elif problem:
            what = f"the form {form.name} of {weight.name} was not written as it was chosen"
            raise VerificationError(
                f"{what}: {problem}",
                "this is a bug of this tool, or of the form's package; report it with the model",
                socket.name,
            )
    return tuple(unread)


def unread_note(names: Sequence[str]) -> tuple[str, ...]:
    """What a report says of operators whose weights could not be read back."""
    if not names:
        return ()
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (f"not read back after it was written: the weight of {names[0]}{more}",)


@dataclass(frozen=True)
class _Socket:
    """Where the result of a use goes, so that it is found again when the node is gone.

    `source`: the use's other input. `turned`: whether the node turned its operand.
    """

    use: Use
    name: str
    place: tuple[Node, int] | tuple[Graph, int] | None
    source: Value | None
    turned: bool

    @staticmethod
    def of(use: Use) -> "_Socket":
        out = use.node.output
        source = use.node.input(1 - use.slot) if use.slot < 2 else None
        turned = bool(use.node.attribute("transB", 0))
        if out.uses:
            return _Socket(use, use.node.name, next(iter(out.uses)), source, turned)
        for graph in out.exits:
            at = next(at for at, (value, _) in enumerate(graph.outputs) if value is out)
            return _Socket(use, use.node.name, (graph, at), source, turned)
        return _Socket(use, use.node.name, None, source, turned)

    def value(self) -> Value | None:
        """What goes there now."""
        if self.place is None:
            return None
        where, at = self.place
        return where.outputs[at][0] if isinstance(where, Graph) else where.inputs[at]


def _problem(socket: _Socket, stored: Array, weight: Weight, made: list[Node]) -> str | None:
    """What is wrong with one use: "" if nothing, None if it cannot be read back."""
    use, model = socket.use, weight.model
    expected = _operand(use, stored)
    if use.node in use.node.graph.nodes:  # as it was: it reads the decoded operand
        operand = use.node.input(use.slot)
        got = Folded(model).array(operand)
        if bool(use.node.attribute("transB", 0)) != socket.turned:
            expected = expected.T
        if got is None and operand is not None and not Folded(model).is_constant(operand):
            return "its operand is no longer constant"
        return None if got is None else _difference(expected, got, None)
    end = socket.value()
    if end is None:
        return None
    for found in _reading(end, made, weight):
        got = found.numbers()
        if got is not None and got.size == expected.size:
            turned, exact = _as_product(use, expected)
            return _difference(turned, got, found.steps(), exact)
    return _by_identity(socket, expected, weight, end)


def _operand(use: Use, stored: Array) -> Array:
    """The operand for these stored numbers, in the type that it is read in."""
    for step in use.path.steps:
        if step.node.op == "Cast":
            stored = stored.astype(np_dtype(step.node.attribute("to")))
    return use.path.apply(stored)


def _reading(end: Value, made: list[Node], weight: Weight) -> Iterator[Effective]:
    """New operators whose result, or result with a bias, goes into the socket."""
    maker = end.producer
    behind = maker.inputs if maker is not None and maker.op in ("Add", "Identity") else []
    for node in made:
        for found in of_node(weight.model, node):
            if found.end is end or found.end in behind:
                yield found


def _as_product(use: Use, expected: Array) -> tuple[Array, bool]:
    """The operand as a product of this kind holds it: columns x rows, with Gemm's alpha in it.

    And whether that is exact.
    """
    if use.node.op != "Gemm":
        return expected, True
    turned = expected.T if use.node.attribute("transB", 0) else expected
    alpha = np.float32(use.node.attribute("alpha", 1.0))
    return (turned, True) if alpha == 1 else ((turned * alpha).astype(np.float32), False)


def _by_identity(socket: _Socket, expected: Array, weight: Weight, end: Value) -> str | None:
    """What the new nodes make of the identity, less what they make of zeros; or of all indices."""
    use, source = socket.use, socket.source
    if source is None or (expected.ndim != 2 and not use.gathered):
        return None
    if use.gathered:
        axis = use.node.attribute("axis", 0) % expected.ndim
        known = declared(source.info)  # a form may count on the rank that is declared
        rank = len(known.shape) if known is not None and known.shape else 1
        indices = np.arange(expected.shape[axis]).reshape(-1, *[1] * (rank - 1))
        got = Folded(weight.model, {source: indices}).array(end)
        if got is not None and got.size == expected.size:
            got = got.reshape(expected.shape)
        return None if got is None else _difference(expected, got, None)
    if not use.multiplied:
        return None
    turned, _ = _as_product(use, expected)
    inner, rows = turned.shape
    if inner * inner * rows > _LARGEST:
        return None
    one = np.eye(inner, dtype=turned.dtype)
    made = Folded(weight.model, {source: one}).array(end)
    rest = Folded(weight.model, {source: np.zeros_like(one)}).array(end)
    if made is None or rest is None:
        return None
    return _difference(turned, np.asarray(made - rest), None, False)


def _difference(expected: Array, got: Array, step: Array | None, exact: bool = True) -> str:
    if expected.shape == got.shape:
        if np.array_equal(expected, got) or np.array_equal(expected, got, equal_nan=True):
            return ""
        one, other = expected.astype(np.float64), got.astype(np.float64)
        size = float(np.abs(one).max(initial=0.0))
        if not exact and np.allclose(one, other, 0, _ROUNDING * size, equal_nan=True):
            return ""
    return diagnose(expected, got, step)
