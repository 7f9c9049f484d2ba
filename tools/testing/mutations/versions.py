"""The same model in another operator set."""

from onnx import ModelProto, version_converter

from onnx_compress.testing.mutations.base import Rng

_NEWEST = 21


def other_opset(model: ModelProto, rng: Rng) -> ModelProto | None:
    """A newer one, by onnx's own converter; None where it cannot."""
    have = next(int(entry.version) for entry in model.opset_import if entry.domain == "")
    if have >= _NEWEST or len(model.opset_import) > 1 or model.functions:
        return None
    try:
        return version_converter.convert_version(model, int(rng.integers(have + 1, _NEWEST + 1)))
    except Exception:  # it raises whatever its C++ raises
        return None
