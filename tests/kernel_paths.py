"""The paths of the kernels, those that cannot run here as skipped."""

import pytest

from onnx_compress.kernels.machine.paths import NEEDS, available

every_path = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            marks=pytest.mark.skipif(
                path not in available(), reason=f"this processor cannot run {path}"
            ),
        )
        for path in NEEDS
    ],
)
