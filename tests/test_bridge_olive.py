"""The bridge to Olive: its pass, in Olive's own workflows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_compress import finish
from onnx_compress.bridges import olive as bridge
from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import load

from graphs import run
from models_by_text import source_file, two_layers  # noqa: F401

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"


def test_without_olive_the_pass_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "olive", None)
    monkeypatch.setitem(sys.modules, "olive.passes", None)
    bridge._olive_pass.cache_clear()
    with pytest.raises(PreconditionError) as caught:
        _ = bridge.OnnxCompress
    assert caught.value.hint == 'pip install "onnx-compress[olive]"'
    with pytest.raises(AttributeError):
        _ = bridge.Anything


@pytest.fixture(name="olive")
def real_olive(monkeypatch, tmp_path):
    """Olive, with all that it writes in a folder of the test."""
    pytest.importorskip("torch")
    pytest.importorskip("olive")
    monkeypatch.chdir(tmp_path)
    import olive.workflows

    return olive.workflows


@pytest.fixture(name="data")
def data_file(tmp_path) -> Path:
    x = np.random.default_rng(0).standard_normal((16, 96)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path / "data.npz"


def workflow(source: Path, *passes: dict, **more) -> dict:
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(source)},
        "passes": {f"p{n}": each for n, each in enumerate(passes)},
        "output_dir": str(source.parent / "out"),
        "cache_dir": str(source.parent / "cache"),
        **more,
    }


def one(source: Path, **options):
    """Run the pass by itself; gives what Olive hands on."""
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    made = create_pass_from_dict(bridge.OnnxCompress, options, disable_search=True)
    return made.run(ONNXModelHandler(str(source)), str(source.parent / "result"))


def test_a_workflow_with_the_pass_among_those_of_olive(olive, source, data):
    before = source.read_bytes()
    options = {"passes": "quant(bits=8)", "calibration": str(data), "target": "avx512-vnni"}
    config = workflow(
        source, {"type": "OnnxPeepholeOptimizer"}, {"type": "OnnxCompress", **options}
    )
    done = olive.run(config, package_config=bridge.package_config())
    (result,) = done.get_output_models()
    assert source.read_bytes() == before
    x = np.load(data)["x"]
    expected, found = run(load(source), x=x)[0], run(load(result.model_path), x=x)[0]
    assert Path(result.model_path).stat().st_size < len(before) / 2
    assert np.linalg.norm(expected - found) < 0.05 * np.linalg.norm(expected)
    config = json.loads((source.parent / "out" / "model_config.json").read_text())
    found = config["config"]["model_attributes"]["onnx_compress"]
    assert found["ratio"] > 2
    assert 0 < found["error"] < 0.05


def test_the_command_of_olive_finds_the_pass_by_a_short_package_config(olive, source):
    package = {"passes": {"OnnxCompress": {"module_path": f"{bridge.__name__}.OnnxCompress"}}}
    config = workflow(source, {"type": "OnnxCompress", "passes": "quant(bits=8)"})
    for name, content in (("packages", package), ("workflow", config)):
        (source.parent / f"{name}.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "olive", "run", "--config", "workflow.json"]
    command += ["--package-config", "packages.json"]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True)
    (result,) = (source.parent / "out").rglob("*.onnx")
    assert result.stat().st_size < source.stat().st_size / 2, done.stdout + done.stderr


def test_options_are_checked_by_olive(olive, source):
    for wrong in ({"max_error": "much"}, {"strict": "perhaps"}):
        with pytest.raises(ValueError):
            one(source, **wrong)


def test_every_option_is_one_of_compress(olive, source, data):
    options = {name: default for name, (_, default, _) in bridge._OPTIONS.items()}
    options |= {
        "exclude": ["V"],
        "memory": 1 << 30,
        "timeout": 60.0,
        "threads": 1,
        "max_drop": None,
    }
    options |= {"passes": "quant(bits=8)", "calibration": str(data), "max_error": 0.2}
    names = {
        tensor.name for tensor in onnx.load(one(source, **options).model_path).graph.initializer
    }
    assert "V" in names
    assert "W" not in names


def test_what_compress_refuses_is_a_failed_pass_for_olive(olive, source):
    from olive.exception import OlivePassError
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    with pytest.raises(OlivePassError, match="max-error"):
        one(source, passes="quant(bits=8)", max_error=1e-9, strict=True)
    with pytest.raises(OlivePassError, match="no pass"):
        one(source, passes="quandt")
    (source.parent / "weights.npz").touch()
    outside = ONNXModelHandler(
        str(source.parent), source.name, external_initializers_file_name="weights.npz"
    )
    made = create_pass_from_dict(bridge.OnnxCompress, {}, disable_search=True)
    with pytest.raises(OlivePassError, match="inputs of the model"):
        made.run(outside, str(source.parent / "result"))


def test_a_result_with_data_of_its_own_is_handed_on_as_a_folder(olive, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "_SINGLE", 0)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnx.save(two_layers(), source, save_as_external_data=True, location="m.data", size_threshold=9)
    result = one(source, passes="quant(bits=8)")
    assert Path(result.model_path).name == "m.onnx"
    files = {path.name for path in Path(result.get_resource("model_path")).iterdir()}
    assert len(files) == 2
    x = np.ones((2, 96), np.float32)
    np.testing.assert_allclose(
        run(load(result.model_path), x=x)[0], run(load(source), x=x)[0], rtol=0.2, atol=2
    )
