"""Digests of weights in what compress writes, and its warning where they no longer fit."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnx_compress import Result, compress
from onnx_compress.ir.graph import from_proto, load
from onnx_compress.ir.graph.digests import KEY, changed, digests

from graphs import parsed, product, weight


def quick(model, passes: str = "quant(bits=8)", **options) -> Result:
    return compress(model, passes, measure=False, **options)


def stamped(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize(
    "passes", ["quant(bits=8)", "quant(bits=16)", "prune(sparsity=0.5),quant(bits=8)"]
)
def test_what_is_written_carries_them(tmp_path, passes):
    out = tmp_path / "out.onnx"
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    assert not quick(tmp_path / "in.onnx", passes, out=out).report.unchanged
    known = json.loads(stamped(onnx.load(out))[KEY])
    assert known == digests(load(out))
    large = {t.name for t in onnx.load(out).graph.initializer if len(t.raw_data) >= 1024}
    assert set(known) == {"", *large}
    assert large
    assert changed(load(out)) == []


def test_they_come_with_results_in_memory_too():
    result = quick(product())
    assert json.loads(stamped(result.model)[KEY]) == digests(from_proto(result.model))


def tampered_result(folder: Path) -> Path:
    out = folder / "out.onnx"
    quick(product(), "quant(bits=16)", out=out)
    model = onnx.load(out)
    large = [t for t in model.graph.initializer if len(t.raw_data) >= 1024]
    data = bytearray(large[0].raw_data)
    data[-1] ^= 1
    large[0].raw_data = bytes(data)
    onnx.save(model, out)
    return out


def test_a_tampered_input_is_warned_about_once(tmp_path):
    path = tampered_result(tmp_path)
    (name,) = changed(load(path))
    for passes in ("quant(bits=8)", "fold"):
        warnings = quick(path, passes).report.warnings
        assert sum("were changed" in warning and name in warning for warning in warnings) == 1
    untouched = quick(quick(product(), "quant(bits=16)").model).report
    assert not any("were changed" in warning for warning in untouched.warnings)


def test_stale_digests_are_replaced(tmp_path):
    path = tampered_result(tmp_path)
    old, again = stamped(onnx.load(path))[KEY], tmp_path / "again.onnx"
    assert not quick(path, "quant(bits=8)", out=again).report.unchanged
    model = onnx.load(again)
    assert [entry.key for entry in model.metadata_props].count(KEY) == 1
    assert stamped(model)[KEY] != old
    assert changed(load(again)) == []


def test_other_metadata_stay(tmp_path):
    model = product()
    model.metadata_props.add(key="a", value="b")
    model.metadata_props.add(key=KEY + "x", value="c")
    found = stamped(quick(model).model)
    assert found.pop(KEY)
    assert found == {"a": "b", KEY + "x": "c"}


@pytest.mark.parametrize("stale", [False, True])
def test_a_result_that_they_would_make_larger_goes_without(tmp_path, stale):
    """Only an Identity goes: less than digests take. An old stamp that no longer fits goes, too."""
    names = {f"w{number}": weight(number)[:32, :32] for number in range(8)}
    chain = "  ".join(f"h{n + 1} = MatMul(h{n}, w{n})" for n in range(8))
    model = parsed(f"(float[N,32] x) => (float[N,32] h8) {{ h0 = Identity(x)  {chain} }}", **names)
    if stale:
        model.metadata_props.add(key=KEY, value='{"w0":"00"}')
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    path.write_bytes(model.SerializeToString())
    report = quick(path, "fold", out=out).report
    assert not report.unchanged
    assert out.stat().st_size < path.stat().st_size
    assert stamped(onnx.load(out)) == {}
    assert changed(load(out)) == []
