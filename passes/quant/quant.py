"""quant: weights with fewer bits.

    bits=16   W  ->  Cast(float16 W)
    bits=8    MatMul, Gemm   DynamicQuantizeLinear, MatMulInteger where the target is faster so
              Gather         Gather(codes), then decoded
              all else       Cast(codes) * scale, folded when the model is loaded

One scale for each output channel. Codes are rounded to the nearest.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import Model, clone, opset
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight, find_weights
from onnx_compress.ir.weights.forms import Affine, Half, affine, minimum_opset
from onnx_compress.kernels import affine as arithmetic
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.quant.readers import choose

_NODE_BYTES = 70  # that a node or a small tensor takes in a file, its names aside
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16")


@dataclass(frozen=True)
class Quant(Pass):
    """Store weights in fewer bits."""

    name: ClassVar[str] = "quant"
    bits: int | None = option(None, "bits a weight", choices=(16, 8))
    activations: str | None = option(
        None,
        "int8: matrix products may quantize their inputs at run time; float: they may not",
        choices=("int8", "float"),
    )

    @property
    def phase(self) -> Phase:
        """Encodes."""
        return Phase.ENCODE

    @property
    def obeyed(self) -> bool:
        """Whether bits were given."""
        return self.bits is not None

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """What is left open: activations, then bits."""
        eight = tuple(
            Quant(bits=8, activations=kind)
            for kind in ("int8", "float")
            if self.activations in (None, kind)
        )
        if self.bits is None:
            return (*eight, Quant(bits=16))
        return eight if self.bits == 8 else (self,)

    def run(self, model: Model, context: Context) -> Report:
        """Encode every weight that gets smaller by it."""
        found = find_weights(model)
        skipped = [Entry(item.name, item.reason) for item in found.skipped]
        shapes = Shapes(model, context.sample) if self.bits == 8 else None
        changes: list[Entry] = []
        readers: Counter[str] = Counter()
        for weight in found:
            form = self._form(weight, context, shapes)
            if isinstance(form, No):
                skipped.append(Entry(weight.name, form.reason))
                continue
            needed = minimum_opset(form, weight.uses)
            if needed > model.opset():
                raised = _raise(model, needed, context)
                if raised:
                    changes.append(Entry("operator set", raised))
                elif model.opset() < needed:
                    skipped.append(Entry(weight.name, f"needs operator set {needed}"))
                    continue
            how = sorted({form.readers.get(use, "codec") for use in weight.uses})
            kinds = sorted({use.node.op for use in weight.uses})
            readers.update(how)
            changes.append(
                Entry(weight.name, f"{weight.dtype} to {form.codes.dtype}, {kinds}, {how}")
            )
            form.emit(weight)
        done = sum(readers.values())
        detail = ", ".join(f"{count} {name}" for name, count in sorted(readers.items()))
        summary = f"{done} weights" + (f" ({detail})" if detail else "")
        return Report(tuple(changes), tuple(skipped), summary)

    def _form(self, weight: Weight, context: Context, shapes: Shapes | None) -> Affine | Half | No:
        if weight.dtype not in _FLOATS:
            return No(f"weights of {weight.dtype} are not quantized")
        if self.bits == 16 and weight.dtype == "FLOAT16":
            return No("already 16 bits")
        array = weight.array()
        if not np.isfinite(array).all():
            return No("holds NaN or infinity")
        form: Affine | Half | No
        if self.bits == 16:
            form = Half.of(weight, array)
        else:
            float_only = self.activations == "float"
            readers = choose(weight, context.target, shapes, float_only)
            narrow = context.target.saturates and "dynamic" in readers.values()
            bits = 7 if narrow else 8
            scale = arithmetic.symmetric_scale(array, weight.channel_axes, bits)
            codes = arithmetic.quantize(array, scale, bits)
            form = affine(weight, codes, scale, readers)
        if isinstance(form, No):
            return form
        overhead = _overhead(weight, form)
        if form.nbytes() + overhead >= weight.nbytes:
            return No(f"too small: {weight.nbytes} bytes, the nodes around it take {overhead}")
        return form


def _overhead(weight: Weight, form: Affine | Half) -> int:
    """About what the added nodes take in the file."""
    name = min(len(weight.name), 24) + 4
    parts = {"codec": 2, "gathered": 4, "dequantize": 2, "dynamic": 6}
    nodes = sum(parts[form.readers.get(use, "codec")] for use in weight.uses)
    return nodes * (_NODE_BYTES + 2 * name) if prod(weight.shape) else 1


def _raise(model: Model, version: int, context: Context) -> str:
    """Raise the operator set if that works on a copy; says what was done, or nothing."""
    before = model.opset()
    limit = context.target.maximum_opset
    if limit and version > limit:
        return ""
    try:
        opset.raise_to(clone(model), version)
    except UnsupportedError:
        return ""
    opset.raise_to(model, version)
    return f"raised from {before} to {version}"
