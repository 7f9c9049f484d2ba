"""The portable spelling of an integer weight, one for each use.

    MatMul(x, W)   ->   MatMul(x, DequantizeLinear(codes, scale, axis=1))

ONNX Runtime fuses it into an 8-bit product where codes are laid out as columns x rows, signed,
and one consumer reads them: so that is what is written. Other runtimes take it as it is. Where it
is not fused (the product was fused with an activation before, say) the weight would be decoded at
every run: `spell_out` then writes it in a way that is folded when the model is loaded.
"""

from collections.abc import Collection

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms.base import FLOAT, Coded, Reader, Stored
from onnx_compress.ir.weights.forms.sparse import put_smaller
from onnx_compress.ir.weights.weight import Use

SUFFIX = ".dq"


def allows(use: Use, coded: Coded) -> No | None:
    """A matrix product whose weight nothing else reads, int8, scales along the rows or one."""
    if not use.multiplied:
        return No(f"{use.node.op} is no matrix product")
    if coded.codes.dtype != np.int8 or coded.scale is None or coded.zero_point is not None:
        return No("only for int8 codes with scales and no zero points")
    if coded.element != FLOAT or use.path.casts:
        return No("only for float32")
    if len(use.path.shape) != 2:
        return No("a batch of matrices")
    if not coded.scales_along(use):
        return No("the scales do not lie along the output features")
    return None


def read(use: Use, stored: Stored) -> None:
    """Let the node read the decoded operand."""
    node, b, coded = use.node, stored.builder(use), stored.coded
    codes = use.path.apply(coded.codes)
    if node.attribute("transB", 0):
        codes = codes.T
        b.model.set_attribute(node, "transB", None)
    scale = stored.channel_scale
    if scale is None:
        raise ValueError("a reader was used that does not allow this")
    axis = 1 if scale.ndim else None
    inputs = put_smaller(b, codes, "q"), b.constant(scale, "s")
    name = b.model.fresh(f"{b.stem}{SUFFIX}")  # by which it is found again among the nodes run
    b.model.set_input(node, use.slot, b("DequantizeLinear", *inputs, name=name, axis=axis))


def spell_out(model: Model, names: Collection[str]) -> int:
    """Write these DequantizeLinear nodes of ours as Cast and Mul; gives how many there were."""
    found = [n for n in model.nodes() if n.op == "DequantizeLinear" and n.name in names]
    for node in found:
        b = Builder(model, node.graph, node.name.removesuffix(SUFFIX), node)
        out = b("Mul", b("Cast", node.inputs[0], to=FLOAT), node.inputs[1])
        model.replace_uses(node.output, out)
        model.remove(node)
    return len(found)


READER = Reader("dequantize", 13, allows, read)
