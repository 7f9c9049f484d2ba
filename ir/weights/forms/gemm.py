"""What Gemm does beside the product, for readers that replace it by another operator.

Gemm(x, W, C)   =   alpha * product(x or its transpose, W) + beta * C
"""

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.view import Node, Value


def plain_input(b: Builder, node: Node) -> Value:
    """The other input of a product by a weight on its right, turned where transA says so."""
    source = node.inputs[0]
    if source is None:
        raise InvalidError("it has no input", where=node.name)
    return b("Transpose", source, perm=[1, 0]) if node.attribute("transA", 0) else source


def with_bias(b: Builder, node: Node, product: Value) -> Value:
    """beta * C added to alpha times the product."""
    bias = node.input(2) if node.op == "Gemm" else None
    if bias is None:
        return product
    beta = node.attribute("beta", 1.0)
    if beta != 1.0:
        array = b.model.constant(bias)
        if array is not None:
            bias = b.constant((array * np.float32(beta)).astype(np.float32), "b")
        else:
            bias = b("Mul", bias, b.constant(np.array(beta, np.float32), "beta"))
    return b("Add", product, bias)
