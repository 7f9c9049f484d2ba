"""compress and the command with little memory: the same results, made in pieces."""

import re

import numpy as np
import onnx
import pytest

from onnx_compress import cli, compress
from onnx_compress.ir.graph import load, to_bytes

from graphs import parsed

# --------------------------------------------------------------------------------------- compress


def saved(folder, external: bool = False):
    proto = parsed(
        "(float[N,96] x) => (float[N,96] y) { p = MatMul(x, a) q = Relu(p) r = Gemm(q, b, c) "
        "s = Add(r, p) t = MatMul(s, d) y = Add(t, x) }",
        **{name: np.random.default_rng(at).standard_normal((96, 96)).astype(np.float32) / 10
           for at, name in enumerate("abd")},
        c=np.ones(96, np.float32),
    )  # fmt: skip
    path = folder / "in.onnx"
    onnx.save_model(proto, path, save_as_external_data=external, location="d", size_threshold=0)
    return path


DATA = {"x": np.random.default_rng(3).standard_normal((8, 96)).astype(np.float32)}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "passes", ["quant(bits=8)", "quant(bits=16)", "prune(sparsity=0.5),quant(bits=8)", "fold"]
)
def test_the_result_is_the_same_with_little_memory(tmp_path, passes, external):
    path = saved(tmp_path, external)
    out = {name: tmp_path / name for name in ("whole.onnx", "pieces.onnx")}
    large = compress(path, passes, DATA, out["whole.onnx"], target="avx512-vnni").report
    small = compress(
        path, passes, DATA, out["pieces.onnx"], target="avx512-vnni", memory=20_000
    ).report
    assert out["whole.onnx"].read_bytes() == out["pieces.onnx"].read_bytes()
    assert large.timing or large.unchanged
    assert small.timing is None
    assert not any("speed" in warning for warning in large.warnings)
    assert any("speed was not measured" in warning for warning in small.warnings)
    assert small.error == pytest.approx(large.error, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("passes", ["prune,quant", "quant"])
def test_settings_are_found_with_little_memory(tmp_path, passes):
    path = saved(tmp_path)
    result = compress(path, passes, DATA, tmp_path / "out.onnx", memory=1)
    assert result.report.bytes_after < result.report.bytes_before
    assert result.report.error <= result.report.max_error
    assert load(tmp_path / "out.onnx").opset()


def test_inputs_are_drawn_with_little_memory(tmp_path):
    path = saved(tmp_path)
    report = compress(path, "quant(bits=8)", out=tmp_path / "out.onnx", memory=1).report
    assert report.drawn
    assert report.bytes_after < report.bytes_before


def test_the_model_given_stays_as_it_is(tmp_path):
    model = load(saved(tmp_path))
    before = to_bytes(model)
    compress(model, "quant(bits=8)", DATA, memory=1)
    assert to_bytes(model) == before


# ------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(("size", "pieces"), [("64KB", True), ("1K", True), ("1GB", False),
                                              ("0.5g", False), ("1000000000", False)])  # fmt: skip
def test_the_command_takes_sizes(tmp_path, capsys, size, pieces):
    path, out = saved(tmp_path), tmp_path / "out.onnx"
    np.savez(tmp_path / "d.npz", **DATA)
    arguments = [str(path), str(out), "--passes", "quant(bits=8)", "--calib", tmp_path / "d.npz"]
    assert cli.main([*map(str, arguments), "--memory", size]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ("speed was not measured" in printed) == pieces
    assert out.exists()


@pytest.mark.parametrize("size", ["abc", "", "GB", "1 apple", "nan", "inf", "1e999", "5XB", "-1KB"])
def test_what_is_no_size_is_a_wrong_command(tmp_path, capsys, size):
    assert cli.main([str(saved(tmp_path)), str(tmp_path / "out.onnx"), "--memory", size]) == 2
    assert "--memory" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "0KB", "0.1"])
def test_no_memory_is_a_wrong_command(tmp_path, capsys, size):
    assert cli.main([str(saved(tmp_path)), str(tmp_path / "out.onnx"), "--memory", size]) == 2
    assert "--memory" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()
