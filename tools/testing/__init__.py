"""Property-based testing of passes, ours and anybody's.

from hypothesis import given
from onnx_compress.testing import check_pass, examples, models

@examples(200)
@given(models())
def test_my_pass(model):
    check_pass(MyPass(), model)
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as _error:
    raise ModuleNotFoundError(
        'hypothesis is not installed: pip install "onnx-compress[testing]"', name="hypothesis"
    ) from _error

from onnx_compress.testing.check_pass import check_pass
from onnx_compress.testing.checks import CHECKS, Failed
from onnx_compress.testing.examples import examples
from onnx_compress.testing.feeds import feed_of, feeds
from onnx_compress.testing.mutated import check_mutations
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
    "check_mutations",
    "check_pass",
    "examples",
    "feed_of",
    "feeds",
    "models",
    "operators",
    "regression",
    "tried",
]
