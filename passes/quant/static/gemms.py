"""Products that bytes are to go into, as a Gemm of two axes without factors; still in floats.

MatMul(x, W) + b -> Relu      ->      Reshape(x) -> Gemm(., W, b) -> Relu -> Reshape
a (x W) + c b                 ->      Gemm(x, a W, c b)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.weights.forms.static import BIAS
from onnx_compress.passes.quant.static.products import Gemm
from onnx_compress.passes.quant.static.ranges import Step
from onnx_compress.passes.quant.static.units import Unit


def as_gemms(model: Model, units: Sequence[Unit], steps: dict[Value, Step]) -> list[Unit]:
    """The units, with every product that has a `gemm` written as that, and the Reshape around it.

    `steps`: of values; those of new ones are put there.
    """
    wanted = {value for unit in units for value in unit.inputs}
    found: list[Unit] = []
    for unit in units:
        made = [unit] if unit.gemm is None else _rewritten(model, unit, unit.gemm, steps, wanted)
        found += made
    return found


def _rewritten(
    model: Model, unit: Unit, form: Gemm, steps: dict[Value, Step], wanted: set[Value]
) -> list[Unit]:
    node, tail = unit.node, unit.tail[len(form.behind) :]
    b = Builder(model, model.graph, node.name[-24:].lstrip("/._"), node)
    (end,) = unit.outputs
    bytes_wanted = end in wanted
    _become(model, unit, form, b)
    if form.behind:
        model.replace_uses(form.behind[-1].output, node.output)
        remove_unused(model, [form.behind[-1].output])
    new = replace(unit, tail=tail, gemm=None)
    (out,) = new.outputs
    if end in steps:
        steps[out] = steps[end]
    if not form.lead or unit.weight is None:
        return [new]
    (use,) = unit.weight.uses
    source = node.input(0)
    rows = b("Reshape", source, _shape(b, (-1, use.layout.columns)))
    model.set_input(node, 0, rows)
    model.forget_shapes([node.output, *(each.output for each in tail)])
    back = b("Reshape", out, _shape(b, (*form.lead, use.layout.rows)))
    model.insert_behind(out, back)
    around = [Unit("same", v.producer, (0,), 0) for v in (rows, back) if v.producer is not None]
    return [around[0], new, *(around[1:] if bytes_wanted else ())]


def _become(model: Model, unit: Unit, form: Gemm, b: Builder) -> None:
    """Let the node be a Gemm of the same first input."""
    node = unit.node
    if node.op == "MatMul":
        model.set_operator(node, "Gemm")
    for name in ("alpha", "beta"):
        model.set_attribute(node, name, None)
    if form.alpha != 1 and unit.weight is not None:
        numbers = unit.weight.array() * np.float32(form.alpha)
        model.set_constant(unit.weight.value, numbers)
    if form.bias is not None:
        node.inputs += [None] * (BIAS + 1 - len(node.inputs))
        old = node.input(BIAS)
        model.set_input(node, BIAS, b.constant(form.bias, "b"))
        remove_unused(model, [old])


def _shape(b: Builder, sizes: Sequence[int]) -> Value:
    return b.constant(np.array(sizes, np.int64), "shape")
