"""Olive: a pass of its workflows, `OnnxCompress`, from an ONNX model to a smaller one.

Olive finds a pass by the package config, where this one is to be listed:

    olive run --config workflow.json --package-config packages.json

    packages.json:  python -c "import json, onnx_compress.bridges.olive as b;
                               print(json.dumps(b.package_config()))" > packages.json
    workflow.json:  {"input_model": {"type": "ONNXModel", "model_path": "in.onnx"},
                     "passes": {"small": {"type": "OnnxCompress", "passes": "quant(bits=8)",
                                          "calibration": "data.npz"}},
                     "output_dir": "out"}
"""

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_compress.bridges import needs
from onnx_compress.compressor import DEFAULT_PASSES, compress
from onnx_compress.ir.errors import CompressError, UnsupportedError

if TYPE_CHECKING:
    from onnx_compress.result import Summary

# option: (type, default, what it is); those of `compress`, and None is its default
_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "passes": (str, DEFAULT_PASSES, "The passes, as on the command line of onnx-compress."),
    "calibration": (str, None, "An .npz with one array per input, first axis the samples."),
    "max_error": (float, None, "What passes without numbers keep within."),
    "max_drop": (float, None, "How far the accuracy on __labels__ may fall."),
    "strict": (bool, False, "Fail where the result exceeds max_error or max_drop."),
    "target": (str, None, "A shipped target or a TOML file; else that of this processor."),
    "fold": (bool, True, "Exact clean-up first."),
    "exclude": (list[str], (), "Names of weights or nodes to leave alone, with * and ?."),
    "seed": (int, 0, "Of all that is drawn."),
    "threads": (int, None, "Threads of the runs; else all processors."),
    "memory": (int, None, "Bytes of weights up to which a model is run whole."),
    "timeout": (float, None, "Seconds that one run may take."),
    "custom_ops": (list[str], (), "Libraries of operators that the model needs."),
}
_PATHS = {"calibration"}
_REPORTED = "onnx_compress"  # among the attributes of the model that Olive gets

_logger = logging.getLogger(__name__)


def package_config() -> dict[str, Any]:
    """Olive's own package config with OnnxCompress in it: a given one replaces Olive's."""
    with needs("olive"):
        from olive.package_config import OlivePackageConfig
    config: dict[str, Any] = OlivePackageConfig.load_default_config().model_dump(mode="json")
    everywhere = ("providers", "accelerators", "precisions")
    config["passes"]["onnxcompress"] = {
        "module_path": f"{__name__}.OnnxCompress",
        **{f"supported_{what}": ["*"] for what in everywhere},
    }
    return config


class _Compress:
    """What OnnxCompress adds to olive.passes.Pass."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        """The options, for Olive to check."""
        from olive.common.config_utils import ParamCategory
        from olive.passes.pass_config import PassConfigParam

        return {
            name: PassConfigParam(
                type_=kind,
                default_value=default,
                description=text,
                category=ParamCategory.PATH if name in _PATHS else ParamCategory.NONE,
            )
            for name, (kind, default, text) in _OPTIONS.items()
        }

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> Any:
        """Compress one model. Raises OlivePassError, which a search survives."""
        from olive.exception import OlivePassError
        from olive.model.utils import resolve_onnx_path

        out = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        options = {name: value for name, value in config.model_dump().items() if name in _OPTIONS}
        try:
            _refuse(model)
            out.parent.mkdir(parents=True, exist_ok=True)
            report = compress(model.model_path, out=out, measure=False, **options).report
        except CompressError as error:
            raise OlivePassError(f"{error}; {error.hint}" if error.hint else str(error)) from error
        for warning in report.warnings:
            _logger.warning("%s: %s", Path(model.model_path).name, warning)
        return _handler(model, out, report)


def _refuse(model: Any) -> None:
    from olive.model import ONNXModelHandler

    if not isinstance(model, ONNXModelHandler):
        what = f"a {type(model).__name__} is no ONNX model"
        raise UnsupportedError(what, "put OnnxConversion before this pass")
    if model.external_initializers_path or model.constant_inputs_path:
        hint = "run this pass before those that take weights out of the model"
        raise UnsupportedError("weights that are inputs of the model", hint, model.model_path)


def _handler(model: Any, out: Path, report: "Summary") -> Any:
    """The result as Olive hands it on, with what was found among its attributes."""
    from olive.model import ONNXModelHandler

    found = {"ratio": report.ratio, "error": report.error, "unchanged": report.unchanged}
    alone = all(path == out for path in out.parent.iterdir())
    return ONNXModelHandler(
        model_path=str(out if alone else out.parent),
        onnx_file_name=None if alone else out.name,
        inference_settings=model.inference_settings,
        use_ort_extensions=model.use_ort_extensions,
        model_attributes={**(model.model_attributes or {}), _REPORTED: found},
    )


@functools.cache
def _olive_pass() -> Any:
    with needs("olive"):
        from olive.passes import Pass
    body = {"__doc__": "Compresses an ONNX model and checks it.", "__module__": __name__}
    return type(Pass)("OnnxCompress", (_Compress, Pass), body)


def __getattr__(name: str) -> Any:
    # made when it is asked for: importing Olive takes torch, and seconds
    if name == "OnnxCompress":
        return _olive_pass()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
