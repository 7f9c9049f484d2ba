"""What all tests share: hypothesis settings, the shipped example, and the marker for slow tests."""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from onnx_compress.kernels.machine import threads

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

threads._WORTH = 0.0  # kernels take as many as asked for, however little there is to do

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow"):
        skip = pytest.mark.skip(reason="slow: needs --run-slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("spelled_out") is None:
        return (yield)
    import spelled_out  # which loads the compiler

    with spelled_out.processor():
        return (yield)


@pytest.fixture(scope="session")
def digits() -> Path:
    """The trained classifier that the repository ships; its data are beside it."""
    return ROOT / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="session")
def few_digits(digits, tmp_path_factory) -> Path:
    """A twentieth of its data, which is enough where accuracy is not what a test is about."""
    path: Path = tmp_path_factory.mktemp("digits") / "few.npz"
    with np.load(digits.with_suffix(".npz")) as data:
        np.savez(path, **{name: data[name][:50] for name in data.files})
    return path
