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
from onnx_compress.ir.weights.forms import READERS, Affine, Half, affine, minimum_opset
from onnx_compress.kernels import affine as arithmetic
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.quant.readers import Choice

_NODE_BYTES = 70  # that a node or a small tensor takes in a file, its names aside
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16")


@dataclass(frozen=True)
class Quant(Pass):
    """Store weights in fewer bits."""

    name: ClassVar[str] = "quant"
    bits: int | None = option(None, "bits a weight", choices=(16, 8))
    activations: str | None = option(
        None,
        "int8 (default): products may quantize their inputs at run time; float: they may not",
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
        """Without bits: eight with and without integer products, then sixteen."""
        if self.bits is not None:
            return (self,)
        kinds = ("int8", "float") if self.activations is None else (self.activations,)
        return (*(Quant(bits=8, activations=kind) for kind in kinds), Quant(bits=16))

    def run(self, model: Model, context: Context) -> Report:
        """Encode every weight that gets smaller by it."""
        changes: list[Entry] = []
        skipped: list[Entry] = []
        choice = None
        if self.bits == 8:
            newest, refused = _reachable(model, context)
            skipped += [Entry("operator set", refused)] if refused else []
            choice = Choice.observed(model, context, newest, self.activations == "float")
        found = find_weights(model)
        skipped += [Entry(item.name, item.reason) for item in found.skipped]
        forms: dict[Weight, Affine | Half] = {}
        for weight in found:
            form = self._form(weight, context, choice)
            if isinstance(form, No):
                skipped.append(Entry(weight.name, form.reason))
            else:
                forms[weight] = form
        needed = max((minimum_opset(form, w.uses) for w, form in forms.items()), default=0)
        if needed > model.opset():
            changes.append(Entry("operator set", f"raised from {model.opset()} to {needed}"))
            opset.raise_to(model, needed, Shapes(model, context.sample).types)
        readers: Counter[str] = Counter()
        for weight, form in forms.items():
            changes.append(Entry(weight.name, _described(weight, form)))
            readers.update({form.readers.get(use, "codec") for use in weight.uses})
            form.emit(weight)
        detail = ", ".join(f"{count} {name}" for name, count in sorted(readers.items()))
        summary = f"{len(forms)} weights" + (f" ({detail})" if detail else "")
        return Report(tuple(changes), tuple(skipped), summary)

    def _form(self, weight: Weight, context: Context, choice: Choice | None) -> Affine | Half | No:
        if weight.dtype not in _FLOATS:
            return No(f"weights of {weight.dtype} are not quantized")
        if self.bits == 16 and weight.dtype == "FLOAT16":
            return No("already 16 bits")
        array = weight.array()
        if not np.isfinite(array).all():
            return No("holds NaN or infinity")
        form: Affine | Half | No
        if choice is None:
            form = Half.of(weight, array)
        else:
            readers = choice.readers(weight)
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


def _described(weight: Weight, form: Affine | Half) -> str:
    kinds = ", ".join(sorted({use.node.op for use in weight.uses}))
    how = ", ".join(sorted({form.readers.get(use, "codec") for use in weight.uses}))
    return f"{weight.dtype.lower()} to {form.codes.dtype} in {kinds}, {how}"


def _reachable(model: Model, context: Context) -> tuple[int, str]:
    """The newest operator set that readers may ask for, and why no newer one."""
    newest = max(reader.minimum_opset for reader in READERS.values())
    limit = context.target.maximum_opset
    newest = min(newest, limit) if limit else newest
    if model.opset() >= newest:
        return model.opset(), ""
    trial = clone(model)
    try:
        opset.raise_to(trial, newest, Shapes(trial, context.sample).types)
    except UnsupportedError as error:
        return model.opset(), str(error)
    return newest, ""
