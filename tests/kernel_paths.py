"""The paths of the kernels. Those that cannot run here are spelled out, or else skipped."""

import pytest
import spelled_out

from onnx_compress.kernels.machine.paths import NEEDS, available


def _param(path):
    if path in available():
        return path
    if path == spelled_out.PATH:
        return pytest.param(path, marks=pytest.mark.spelled_out)
    reason = f"this processor cannot run {path}"
    return pytest.param(path, marks=pytest.mark.skip(reason=reason))


every_path = pytest.mark.parametrize("path", [_param(path) for path in NEEDS])
