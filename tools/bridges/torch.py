"""torch: what torch.onnx.export(..., dynamo=True) gives.

smaller = compress(torch.onnx.export(module, inputs, dynamo=True), calibration=data).model
smaller.save("small.onnx")

`compress` takes an ONNXProgram and gives a new one; these are its two halves.
"""

from typing import Any

from onnx_compress.bridges import needs
from onnx_compress.ir.graph import Model


def from_torch(program: Any) -> Model:
    """A model from a torch.onnx.ONNXProgram; its weights stay in the tensors of torch.

    Raises UnsupportedError for one without weights, of fake tensors.
    """
    with needs("torch"):
        from onnx_compress.ir.graph.onnx_ir import from_onnx_ir
    return from_onnx_ir(program.model)


def to_torch(model: Model, exported_program: Any = None) -> Any:
    """A torch.onnx.ONNXProgram, to be run, saved or optimised as any other.

    It runs the model. `exported_program` is only kept for who asks it for the original.
    """
    with needs("torch"):
        from torch.onnx import ONNXProgram

        from onnx_compress.ir.graph.onnx_ir import to_onnx_ir
    return ONNXProgram(to_onnx_ir(model), exported_program)
