"""How many examples a property is tried on: as written in the test, or as asked for on the line.

pytest --onnx-compress-examples 10000
"""

from hypothesis import HealthCheck, settings

_asked: list[int] = []


def ask(count: int) -> None:
    """All tests that use `examples` try so many."""
    _asked[:] = [count]


def examples(count: int) -> settings:
    """Settings of Hypothesis for properties of passes: `count` examples, no deadline."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    number = _asked[0] if _asked else count
    return settings(max_examples=number, deadline=None, suppress_health_check=checks)
