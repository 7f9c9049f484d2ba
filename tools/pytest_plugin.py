"""The pytest plugin: `--onnx-compress-examples N`.

Not in `testing`, which needs hypothesis: pytest loads this one wherever the package is installed.
"""

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """The option."""
    group = parser.getgroup("onnx-compress")
    group.addoption(
        "--onnx-compress-examples",
        type=int,
        metavar="N",
        help="examples that each property with onnx_compress.testing.examples is tried on",
    )


def pytest_configure(config: Any) -> None:
    """Hand the number on, before test modules are imported."""
    count = config.getoption("--onnx-compress-examples")
    if count is None:
        return
    if count < 1:
        import pytest

        raise pytest.UsageError(f"--onnx-compress-examples {count}: it must be at least 1")
    from onnx_compress.testing.examples import ask

    ask(count)
