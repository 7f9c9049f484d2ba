"""Recurrent layers: sequence first, [steps, batch, features]."""

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.spec import Add, Spec

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _layer(op: str) -> Add:
    def add(b: Builder, x: Known) -> Known:
        steps, batch, features = x.shape
        direction = b.one_of(["forward", "reverse", "bidirectional"])
        ways = 2 if direction == "bidirectional" else 1
        gates = _GATES[op]
        hidden = b.width(ways * gates * features, ways * steps * batch, sizes=(1, 2, 4, 8, 16))
        inputs: list[str | Known] = [
            x,
            b.weight((ways, gates * hidden, features), x.dtype, features),
            b.weight((ways, gates * hidden, hidden), x.dtype, hidden),
        ]
        if b.flag():
            inputs.append(b.weight((ways, 2 * gates * hidden), x.dtype, 4))
        options = {"linear_before_reset": b.integer(0, 1)} if op == "GRU" else {}
        shape = (steps, ways, batch, hidden)
        return b.add(
            op, inputs, x, shape, degree=1, direction=direction, hidden_size=hidden, options=options
        )

    return add


def _fits(known: Known) -> bool:
    return known.is_float and known.rank == 3 and known.shape[0] <= 8


RECURRENT = tuple(Spec((op,), _fits, _layer(op), since=7) for op in ("LSTM", "GRU", "RNN"))
