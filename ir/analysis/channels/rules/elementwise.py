"""Operators that compute each number from those at the same place: all axes carry.

x [2, 8, 4] + b [8, 1]         axis 1 of x = axis 0 of b = axis 1 of y
"""

from onnx_compress.ir.analysis.channels.axes import Ports

OPERATORS = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu "
    "Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual "
    "Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid "
    "Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor "
    "com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.QuickGelu"
).split()


def elementwise(p: Ports) -> None:
    """Axes are aligned from the last; those of one position are repeated."""
    for out in range(len(p.node.outputs)):
        shape = p.made_shape(out)
        for slot in range(len(p.node.inputs)):
            if not p.has(slot):
                continue
            own = p.shape(slot)
            for axis in range(len(own)):
                place = axis + len(shape) - len(own)
                if own[axis] in (1, shape[place]):
                    p.same(p.read(slot, axis), p.made(place, out))


def coded(p: Ports) -> None:
    """QuantizeLinear, DequantizeLinear: scales for the positions of one axis, or one for all."""
    shape = p.shape(0)
    axis = p.node.attribute("axis", 1)
    per_axis = len(p.shape(1)) == 1 and p.shape(1)[0] > 1
    if not per_axis and any(size > 1 for size in p.shape(1)):
        return  # scales for blocks
    for at in range(len(shape)):
        p.same(p.read(0, at), p.made(at))
    if per_axis:
        for slot in (1, 2):
            if p.has(slot):
                p.same(p.read(slot, 0), p.read(0, axis))
