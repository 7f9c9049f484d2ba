"""Activations as bytes, with scales that samples gave: whole stretches of a network in integers.

Conv -> Clip -> Conv -> Add    ->    Q -> QLinearConv -> QLinearConv -> QLinearAdd -> DQ
"""

from onnx_compress.passes.quant.static.plans import Integers, placed, settled

__all__ = ["Integers", "placed", "settled"]
