"""Property-based testing of passes, ours and anybody's.

from hypothesis import given
from onnx_compress.testing import check_pass, models

@given(models())
def test_my_pass(model):
    check_pass(MyPass(), model)
"""

from onnx_compress.testing.check_pass import check_pass
from onnx_compress.testing.checks import CHECKS, Failed
from onnx_compress.testing.feeds import feed_of, feeds
from onnx_compress.testing.mutations import MUTATIONS
from onnx_compress.testing.regression import as_text, regression
from onnx_compress.testing.strategy import models, operators
from onnx_compress.testing.trial import Trial, tried

__all__ = [
    "CHECKS",
    "MUTATIONS",
    "Failed",
    "Trial",
    "as_text",
    "check_pass",
    "feed_of",
    "feeds",
    "models",
    "operators",
    "regression",
    "tried",
]
