"""quant: weights with fewer bits.

    bits=16   W  ->  Cast(float16 W)
    bits=8    MatMul, Gemm   DynamicQuantizeLinear, MatMulInteger where the target is faster so
              Gather         Gather(codes), then decoded
              all else       Cast(codes) * scale, folded when the model is loaded
              rows of at most ten (depthwise kernels)   as with bits=16

One scale for each output channel. Codes are rounded to the nearest.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph import Model, clone, opset
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import executed
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import READERS, Affine, Half, affine, minimum_opset, spell_out
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.quant.readers import Choice
from onnx_compress.passes.quant.rounding import round_to_nearest
from onnx_compress.passes.verify.emitted import emit, unread_note

_NODE_BYTES = 70  # that a node or a small tensor takes in a file, its names aside
_NODES = {"codec": 2, "gathered": 4, "dequantize": 2, "dynamic": 6}  # that a reader adds
_SHORT = 10  # columns; a scale of 32 bits over ten codes is 40 % more
_STRICTER = (22.0, 26.0)  # dB; products whose inputs lose more than this stay float
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16")


@dataclass(frozen=True)
class Quant(Pass):
    """Store weights in fewer bits."""

    name: ClassVar[str] = "quant"
    idempotent: ClassVar[bool] = True
    example: ClassVar[str] = "quant(bits=8)"
    bits: int | None = option(None, "bits a weight", choices=(16, 8))
    activations: str | None = option(
        None,
        "int8: products may quantize their inputs at run time; float: they may not",
        choices=("int8", "float"),
    )
    least_db: float = option(
        18.0, "signal to noise that an input must keep as bytes, else it stays float", low=0
    )

    @property
    def phase(self) -> Phase:
        """Encodes."""
        return Phase.ENCODE

    @property
    def weight_error(self) -> float:
        """That of rounding, of inputs of products too where they become bytes."""
        return 5e-4 if self.bits == 16 else 0.02

    @property
    def obeyed(self) -> bool:
        """Whether bits were given."""
        return self.bits is not None

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """Without bits: eight with fewer and fewer integer products, then sixteen."""
        if self.bits is not None:
            return (self,)
        found = []
        if self.activations != "float":
            steps = (self.least_db, *(step for step in _STRICTER if step > self.least_db))
            found += [Quant(bits=8, activations="int8", least_db=step) for step in steps]
        if self.activations != "int8":
            found.append(Quant(bits=8, activations="float"))
        return (*found, Quant(bits=16))

    def run(self, model: Model, context: Context) -> Report:
        """Encode every weight that gets smaller by it."""
        changes: list[Entry] = []
        skipped: list[Entry] = []
        choice = None
        newest, refused = _reachable(model, context)
        if self.bits == 8:
            skipped += [Entry("operator set", refused)] if refused else []
            least = inf if self.activations == "float" else self.least_db
            choice = Choice.observed(model, context, newest, least)
        found = context.weights(model)
        skipped += [Entry(item.name, item.reason) for item in found.skipped]
        plan: dict[Weight, dict[Use, str]] = {}
        for weight in found:
            readers = self._planned(weight, choice)
            if isinstance(readers, No):
                skipped.append(Entry(weight.name, readers.reason))
            elif minimum_opset(readers.values() or ["codec"]) > newest:
                skipped.append(
                    Entry(weight.name, refused or "the target's operator set is too old")
                )
            else:
                plan[weight] = readers
        needed = minimum_opset(name for readers in plan.values() for name in readers.values())
        used: Counter[str] = Counter()
        unread: tuple[str, ...] = ()
        for done, (weight, readers) in enumerate(plan.items()):  # one at a time: arrays are large
            context.progress(done, len(plan), "weights")
            form = self._form(weight, readers, context.target.saturates)
            if isinstance(form, No):
                skipped.append(Entry(weight.name, form.reason))
                continue
            if needed > model.opset():
                changes.append(Entry("operator set", f"raised from {model.opset()} to {needed}"))
                opset.raise_to(model, needed, Shapes(model, context.sample).types)
            changes.append(Entry(weight.name, _described(weight, form)))
            used.update({form.readers.get(use, "codec") for use in weight.uses} or {"codec"})
            unread += emit(form, weight)
        slow = used["dequantize"] and _spell_out_unfused(model, context)
        if slow:
            used.update({"codec": slow, "dequantize": -slow})
        used = +used
        detail = ", ".join(f"{count} {name}" for name, count in sorted(used.items()))
        done = sum(entry.subject != "operator set" for entry in changes)
        summary = f"{done} weights" + (f" ({detail})" if detail else "")
        return Report(tuple(changes), tuple(skipped), summary, unread_note(unread))

    def _planned(self, weight: Weight, choice: Choice | None) -> dict[Use, str] | No:
        """Reader by use, or why the weight is left alone; without looking at its numbers."""
        if weight.dtype not in _FLOATS:
            return No(f"weights of {weight.dtype} are not quantized")
        if self._bits(weight) == 16 and weight.dtype == "FLOAT16":
            return No("already 16 bits")
        half = self._bits(weight) == 16
        readers = Half.readers_of(weight) if half or choice is None else choice.readers(weight)
        scales = 0 if half else prod(weight.shape[axis] for axis in weight.channel_axes)
        stored = weight.size * self._bits(weight) // 8 + 4 * scales
        overhead = _overhead(weight, readers)
        if stored + overhead >= weight.nbytes:
            return No(f"too small: {weight.nbytes} bytes, the nodes around it take {overhead}")
        return readers

    def _bits(self, weight: Weight) -> int:
        return 16 if self.bits == 16 or _short_rows(weight) else 8

    def _form(self, weight: Weight, readers: dict[Use, str], saturates: bool) -> Affine | Half | No:
        if self._bits(weight) == 16:
            return Half.of(weight)
        # where products of bytes saturate, one bit less keeps the sum of two in range
        bits = 7 if saturates and "dynamic" in readers.values() else 8
        rounded = round_to_nearest(weight, bits)
        return rounded if isinstance(rounded, No) else affine(weight, *rounded, readers)


def _short_rows(weight: Weight) -> bool:
    """Whether scales would take almost as much as the codes: float16 is then hardly larger.

    Depthwise 3x3 kernels are such, and among the most sensitive weights of a network.
    """
    return bool(weight.uses and weight.channel_axes) and all(
        u.layout.columns <= _SHORT for u in weight.uses
    )


def _overhead(weight: Weight, readers: dict[Use, str]) -> int:
    """About what the added nodes take in the file."""
    name = min(len(weight.name), 24) + 4
    nodes = sum(_NODES[readers[use]] for use in weight.uses) or _NODES["codec"]
    return nodes * (_NODE_BYTES + 2 * name)


def _spell_out_unfused(model: Model, context: Context) -> int:
    """Weights that would be decoded at every run are written so that they are decoded at load."""
    if not context.target.features:
        return 0  # for no processor in particular: other runtimes know DequantizeLinear best
    try:
        ran = executed(model, context.sample)
    except InvalidError:
        return 0  # the check after the pass says what is wrong
    return spell_out(model, {name for op, name in ran if op == "DequantizeLinear"})


def _described(weight: Weight, form: Affine | Half) -> str:
    how = ", ".join(sorted({form.readers.get(use, "codec") for use in weight.uses})) or "codec"
    return f"{weight.dtype.lower()} to {form.codes.dtype}, {how}"


def _reachable(model: Model, context: Context) -> tuple[int, str]:
    """The newest operator set that readers may ask for, and why no newer one."""
    limit = context.target.maximum_opset
    asked = {reader.minimum_opset for reader in READERS.values()}
    refused = ""
    for version in sorted(asked, reverse=True):
        if model.opset() >= version:
            break
        if limit and version > limit:
            continue
        trial = clone(model)
        try:
            opset.raise_to(trial, version, Shapes(trial, context.sample).types)
        except UnsupportedError as error:
            refused = refused or str(error)
            continue
        return version, refused
    return model.opset(), refused
