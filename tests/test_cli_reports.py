"""The report of the command, and its options for saying less or more."""

import json
import re
from importlib.metadata import version

import onnx
import pytest

from onnx_compress.cli import main

from command_runs import (
    FILES,
    folder_with_a_model,  # noqa: F401
    names,
)
from models_by_text import same_numbers_in_any_order  # noqa: F401


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_holds_all_figures(place, capsys):
    arguments = ["in.onnx", "out.onnx", "--passes", "prune(sparsity=0.2),quant(bits=8)"]
    assert main([*arguments, "--calib", "data.npz", "--report", "report.json"]) == 0
    report = strict((place / "report.json").read_text())
    assert report["schema"] == 2
    size, cost, quality = (report[key] for key in ("size", "cost", "quality"))
    assert size["before"] == (place / "in.onnx").stat().st_size
    assert size["after"] == (place / "out.onnx").stat().st_size
    assert size["ratio"] == pytest.approx(size["before"] / size["after"])
    assert report["passes"] == "fold,prune(sparsity=0.2),quant(bits=8)"
    assert [stage["pass"] for stage in report["stages"]] == report["passes"].split(",")
    assert quality["outputs"][0]["name"] == "y"
    assert 0 < quality["error"] == quality["outputs"][0]["error"]
    assert quality["sqnr_db"] > 0
    assert quality["max_error"] == 0.15
    assert quality["samples"] == {"drawn": False, "fitted": 4, "judged": 4}
    assert cost["after"]["weight_bytes"] < cost["before"]["weight_bytes"]
    assert cost["before"]["parameters"] == 2 * 96 * 96
    assert report["speed"]["measured"] > 0
    assert report["verdict"] == "compressed"
    assert {"onnx-compress", "onnxruntime"} <= set(report["versions"])
    for key in ("target", "seconds", "warnings", "metric", "seed", "layers", "exclude"):
        assert key in report


def test_the_report_of_a_bad_result_is_valid_too(place):
    arguments = ["in.onnx", "out.onnx", "--passes", "prune(sparsity=0.99)", "--report", "r.json"]
    assert main([*arguments, "--quiet"]) == 0
    report = strict((place / "r.json").read_text())
    assert report["quality"]["error"] > 0.15
    assert any("above" in warning for warning in report["warnings"])


def test_a_report_that_cannot_be_written_ends_with_seven(place, capsys):
    assert main(["in.onnx", "out.onnx", "--report", "nowhere/report.json"]) == 7
    error, hint = capsys.readouterr().err.splitlines()
    assert "report.json" in error
    assert "folder" in hint
    assert names(place) == FILES  # it is looked at first


def test_quiet_prints_nothing(place, capsys):
    assert main(["in.onnx", "out.onnx", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert (place / "out.onnx").exists()


def test_quiet_still_prints_errors(capsys):
    assert main(["nowhere.onnx", "out.onnx", "--quiet"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"onnx-compress {version('onnx-compress')}"


def test_help_names_all_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for code in ("0", "2", "3", "4", "5", "6", "7", "130"):
        assert re.search(rf"\b{code}\s", printed)


def test_options_reach_the_run(place):
    arguments = ["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--report", "r.json"]
    assert main([*arguments, "--quiet", "--no-fold", "--target", "portable", "--threads", "1"]) == 0
    report = strict((place / "r.json").read_text())
    assert report["passes"] == "quant(bits=8)"
    assert report["target"] == "portable"
    kinds = {node.op_type for node in onnx.load("out.onnx").graph.node}
    assert "MatMulInteger" not in kinds
