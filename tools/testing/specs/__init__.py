"""The tables of operators, one file a family."""

from onnx_compress.testing.spec import Spec
from onnx_compress.testing.specs.blocks import BLOCKS
from onnx_compress.testing.specs.bodies import BODIES
from onnx_compress.testing.specs.convolution import CONVOLUTION
from onnx_compress.testing.specs.elementwise import ELEMENTWISE
from onnx_compress.testing.specs.normalization import NORMALIZATION
from onnx_compress.testing.specs.pooling import POOLING
from onnx_compress.testing.specs.products import PRODUCTS
from onnx_compress.testing.specs.recurrent import RECURRENT
from onnx_compress.testing.specs.reduction import REDUCTION
from onnx_compress.testing.specs.shape import SHAPE

# a family is drawn first, so that one with many rows is not seen more often than one with few;
# products, which compression is about, are seen twice as often
FAMILIES: tuple[tuple[Spec, ...], ...] = (
    ELEMENTWISE,
    PRODUCTS,
    CONVOLUTION,
    NORMALIZATION,
    POOLING,
    SHAPE,
    REDUCTION,
    RECURRENT,
    BLOCKS,
    BODIES,
    PRODUCTS,
)
SPECS: tuple[Spec, ...] = tuple(dict.fromkeys(spec for family in FAMILIES for spec in family))
