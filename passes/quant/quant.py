"""quant: weights with fewer bits.

    bits=16        W  ->  Cast(float16 W)
    bits=8         Conv           with real inputs, whole stretches of integers: QuantizeLinear,
                                  DequantizeLinear around Conv, Add, Mul, MaxPool ..., fused
                   MatMul, Gemm   DynamicQuantizeLinear, MatMulInteger where a target is faster so;
                                  within such stretches, where that is faster still, like Conv
                   Gather         Gather(codes), then decoded
                   all else       Cast(codes) * scale, folded when the model is loaded
    bits=6 ... 2   MatMul, Gemm   MatMulNBits (2 and 4 bits) where the target is faster so, or
                                  DequantizeLinear of int4 for other runtimes
                   Gather         Gather(bytes), then unpacked
                   all else       unpacked by Div and Mod, folded when the model is loaded
    bits=1.58, 1   -1, 0, +1; or `bases` of -1, +1 with a scale each; kept and read like those above

Rows of at most ten numbers (depthwise kernels) stay float16 unless `keep` asks for less. With real
inputs, codes are chosen by coordinate descent on the second moment of what they multiply, and
biases make up for what shifts the means; without, by the least squared error. `residual_rank`: two
thin matrices beside a product make up for part of what its codes lose. Zeros of pruned
weights stay zero, and codes of eight bits are stored without them where that is smaller.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.passes.base import Context, Pass, Phase, Report, Trial, matches, option
from onnx_compress.passes.quant.encode import INTEGERS, WEAKEST, encode
from onnx_compress.passes.quant.fragile import fragile
from onnx_compress.passes.quant.halves import HELD
from onnx_compress.passes.quant.plan import Plan, plan
from onnx_compress.passes.quant.readers import Choice
from onnx_compress.passes.quant.residual import corrects, uncorrected
from onnx_compress.passes.quant.setting import Setting

Keep = dict[str, Any]  # bits by pattern
_LARGE = 1 << 28  # bytes of weights; of larger models it takes too long to find those of 16 bits
_WEIGHTS = 0.5  # of the error that is allowed, for weights alone
_SHORT = 10  # columns; a scale over ten codes is 40 % more, and such rows are the most sensitive
_STRICTER = (22.0, 26.0)  # dB; products whose inputs lose more than this stay float
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16")
_BITS = (16, 8, 6, 5, 4, 3, 2, 1.58, 1)
_BLOCKS = {6: 0, 5: 64, 4: 32, 3: 32, 2: 32, 1.58: 128, 1: 128}
_RECURRENT = ("LSTM", "GRU", "RNN")
_ZEROS = (5, 4, 3, 2)  # bits with zeros of blocks
_ERRORS = {16: 5e-4, 8: 0.02, 6: 0.04, 5: 0.08, 4: 0.15, 3: 0.3, 2: 0.6, 1.58: 0.7, 1: 0.8}


@dataclass(frozen=True)
class Quant(Pass):
    """Store weights in fewer bits."""

    name: ClassVar[str] = "quant"
    idempotent: ClassVar[bool] = True
    example: ClassVar[str] = "quant(bits=8)"
    bits: int | float | None = option(None, "bits a weight; 1.58: -1, 0 and +1", choices=_BITS)
    activations: str | None = option(
        None,
        "int8: products may quantize their inputs at run time; float: they may not",
        choices=("int8", "float"),
    )
    least_db: float = option(
        18.0, "signal to noise that an input must keep as bytes, else it stays float", low=0
    )
    block_size: int | None = option(
        None,
        "below 8 bits: columns that share a scale, 0: whole rows; by default 32 from 2 to 4 bits, "
        "64 in recurrent layers and in tables of more bits than the rest",
        choices=(0, 16, 32, 64, 128, 256),
    )
    zero_point: bool | None = option(
        None, "2 to 6 bits: whether blocks have a zero of their own; by default up to 5 bits"
    )
    bases: int = option(1, "with bits=1: how many bases of one bit are added up", low=1, high=4)
    embedding_bits: int | float | None = option(
        None, "bits of tables rows are picked of", choices=_BITS
    )
    residual_rank: int = option(
        0, "below 8 bits: rank of a float16 correction beside MatMul and Gemm", low=0, high=1024
    )
    keep: Keep | None = option(  # noqa: RUF009
        None, "bits by name of a weight or a node, which may hold *, ? and []"
    )
    sequential: bool = option(
        True,
        "with real inputs, where all activations are float: fit each layer to what the layers "
        "before it became",
    )

    def __post_init__(self) -> None:
        """Check the options. Raises OptionError."""
        super().__post_init__()
        for pattern, bits in (self.keep or {}).items():
            if not isinstance(pattern, str) or bits not in _BITS:
                allowed = ", ".join(f"{choice:g}" for choice in _BITS)
                where = f"{self.name}(keep)"
                raise OptionError(f"{bits} for {pattern!r} is not one of {allowed}", "", where)
        given = [self.bits or 8, self.embedding_bits or 8, *(self.keep or {}).values()]
        if self.residual_rank and min(given) >= 8:
            hint = "leave it out, or give fewer bits"
            raise OptionError("residual_rank is for less than 8 bits", hint, str(self))

    @property
    def phase(self) -> Phase:
        """Encodes."""
        return Phase.ENCODE

    @property
    def weight_error(self) -> float:
        """That of rounding, of inputs of products too where they become bytes."""
        given = [self.bits or 8, self.embedding_bits or 16, *(self.keep or {}).values()]
        return max(_ERRORS[bits] for bits in given)

    @property
    def obeyed(self) -> bool:
        """Whether bits were given."""
        return self.bits is not None

    def settings(self, context: Context) -> tuple["Quant", ...]:
        """Without bits: eight with fewer and fewer integer products, then sixteen.

        With eight, and real inputs, the same without the last.
        """
        chosen = self.bits == 8 and self.activations is None and context.calibrated
        if self.bits is not None and not chosen:
            return (self,)
        found: list[Quant] = []
        if self.activations != "float":
            steps = (self.least_db, *(step for step in _STRICTER if step > self.least_db))
            found += [replace(self, bits=8, least_db=step) for step in steps]
        if self.activations != "int8":
            found.append(replace(self, bits=8, activations="float", least_db=18.0))
        last = replace(self, bits=16, activations=None, least_db=18.0)
        return tuple(found) if self.obeyed else (*found, last)

    def search(
        self, model: Model, context: Context, allowed: float, tried: Sequence[Trial]
    ) -> Iterable[Pass]:
        """The settings that change something: stricter ones, as far as an input is that weak.

        Where eight bits are too few, from then on those weights keep sixteen that make it so; and
        the last of these settings is tried without going layer by layer, which adds errors up where
        layers magnify them.
        """
        keep: Keep | None = None
        known = context.memo if context.memo is not None else {}
        for setting in self.settings(context):
            if setting._idle(self, known):
                continue
            if setting.bits != 8:
                yield setting
                return
            yield replace(setting, keep=keep or self.keep)
            if tried and not tried[-1].fits and keep is None and not self.obeyed:
                keep = self._fragile(model, context, min(allowed, tried[-1].error) * _WEIGHTS)
                if keep:
                    yield replace(setting, keep=keep)
            if tried and tried[-1].fits:
                return
            if self.sequential and context.fit and known.get(INTEGERS) is False:
                yield replace(setting, keep=keep or self.keep, sequential=False)
                if tried and tried[-1].fits:
                    return

    def _fragile(self, model: Model, context: Context, allowed: float) -> Keep:
        """`keep` with 16 bits for few weights, after which the others make this error; or none."""
        eight = [weight for weight in context.weights(model) if self.bits_of(weight) == 8]
        if sum(weight.nbytes for weight in eight) > _LARGE:
            return {}
        found = fragile(model, eight, context.fit[:HELD] or [context.sample], allowed)
        return {**(self.keep or {}), **{w.name: 16 for w in found}} if found else {}

    def _idle(self, first: "Quant", known: Mapping[Any, Any]) -> bool:
        """Whether it is stricter about bytes alone than the first, where none go by that."""
        if self.bits != 8 or first.activations == "float":
            return False
        if self.activations == "float":
            return known.get(INTEGERS) is False
        return bool(first.least_db < self.least_db <= known.get(WEAKEST, -inf))

    def run(self, model: Model, context: Context) -> Report:
        """Encode every weight that gets smaller by it."""
        return encode(model, context, self)

    def planned(self, weight: Weight, choice: Choice | None) -> Plan | No:
        """The form and its readers, or why the weight is left alone."""
        if weight.dtype not in _FLOATS:
            return No(f"weights of {weight.dtype} are not quantized")
        bits = self.bits_of(weight)
        block = self.block_size if self.block_size is not None else self._block(weight, bits)
        wanted = self.zero_point if self.zero_point is not None else bits in _ZEROS
        zeros = bits >= 2 and wanted
        rank = self.residual_rank if bits < 8 else 0
        if rank and corrects(weight):
            return No("it makes up for what the codes of another weight lose")
        rank = 0 if uncorrected(weight, rank) else rank
        bases = self.bases if bits == 1 else 1
        return plan(weight, Setting(bits, block, zeros, bases, rank), choice)

    def _block(self, weight: Weight, bits: float) -> int:
        """Columns of a block, twice as many where errors matter less.

        In recurrent layers, whose gates squash what steps add up, and in tables of more bits than
        the weights have that multiply what is picked.
        """
        recurrent = any(use.node.op in _RECURRENT for use in weight.uses)
        finer = bits > (self.bits or 8) and all(use.gathered for use in weight.uses)
        wide = bits in (4, 3, 2) and (recurrent or finer)
        return _BLOCKS.get(bits, 0) * (2 if wide else 1)

    def bits_of(self, weight: Weight, short: bool = True) -> float:
        """Bits of a weight; `short`: sixteen of rows that are too short for fewer."""
        for pattern, bits in (self.keep or {}).items():
            if matches(weight, pattern):
                return float(bits)
        bits = self.bits or 8
        if self.embedding_bits is not None and any(use.gathered for use in weight.uses):
            return self.embedding_bits
        return 16 if short and _short_rows(weight) else bits


def _short_rows(weight: Weight) -> bool:
    """Whether scales would take almost as much as the codes: float16 is then hardly larger.

    Depthwise 3x3 kernels are such, and among the most sensitive weights of a network.
    """
    return bool(weight.uses and weight.channel_axes) and all(
        u.layout.columns <= _SHORT for u in weight.uses
    )
