"""--dry-run: what a run would do; and where arguments may stand."""

import numpy as np
import pytest

from onnx_compress import plan
from onnx_compress.cli import main

from graphs import parsed, product
from places import contents
from reported_commands import (
    EIGHT,
    FILES,
    folder_with_a_model,  # noqa: F401
    refused,
    reported,
)

# -------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("output", [[], ["out.onnx"], ["older.onnx"], ["in.onnx"]])
def test_a_plan_writes_nothing(output, place, capsys):
    (place / "older.onnx").write_bytes(b"older")
    before = contents(place)
    assert main(["in.onnx", *output, "--dry-run", *EIGHT]) == 0
    assert contents(place) == before
    printed = capsys.readouterr().out
    for word in ("quant(bits=8)", "size", "estimate", "not judged", "nothing was judged"):
        assert word in printed
    assert "strongest" not in printed


PASSES = ["fold", "quant(bits=8)", "quant(bits=16)", "prune(sparsity=0.5),quant(bits=8)"]


@pytest.mark.parametrize("passes", PASSES)
def test_a_plan_of_passes_with_numbers_is_what_a_run_then_does(passes, place):
    arguments = ["in.onnx", "out.onnx", "--passes", passes, "--calib", "data.npz"]
    planned = reported(*arguments, "--dry-run")
    assert not (place / "out.onnx").exists()
    done = reported(*arguments)
    assert planned["size"] == done["size"]
    assert planned["size"]["after"] == (place / "out.onnx").stat().st_size
    for key in ("cost", "passes", "target", "seed", "exclude"):
        assert planned[key] == done[key]
    assert planned["speed"]["estimated"] == done["speed"]["estimated"]
    for before, after in zip(planned["stages"], done["stages"], strict=True):
        for key in ("pass", "summary", "bytes_after", "changes", "skipped"):
            assert before[key] == after[key]


def test_a_plan_of_the_shipped_example_has_the_sizes_of_the_run(digits, few_digits):
    arguments = [str(digits), "out.onnx", *EIGHT, "--calib", str(few_digits)]
    assert reported(*arguments, "--dry-run")["size"] == reported(*arguments)["size"]


def test_the_report_of_a_plan_tells_what_was_not_looked_at(place):
    found = reported("in.onnx", "out.onnx", "--dry-run", *EIGHT, "--max-error", "0.3")
    assert found["verdict"] == "planned"
    assert found["output"] is found["refused"] is found["metric"] is None
    assert found["quality"]["error"] is found["quality"]["sqnr_db"] is None
    assert found["speed"]["measured"] is None
    assert found["quality"]["max_error"] == 0.3
    assert found["quality"]["samples"]["judged"] == 0


def test_a_plan_says_which_passes_a_run_would_still_choose_for(capsys):
    assert main(["in.onnx", "--dry-run", "--passes", "prune(sparsity=0.1),quant"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "strongest setting" in x]
    assert "quant" in line
    assert "prune" not in line


@pytest.mark.parametrize(
    "wrong", ["--max-error=-1", "--max-error=nan", "--max-drop=-1", "--threads=-3", "--seed=-1"]
)
def test_a_plan_refuses_the_numbers_that_a_run_refuses(wrong, capsys):
    refused(["in.onnx", "--dry-run", *EIGHT, wrong], capsys)


def test_the_estimated_speed_is_that_of_integer_products_alone():
    wide = np.random.default_rng(0).standard_normal((1024, 1024)).astype("float32")
    products = parsed("(float[N,1024] x) => (float[N,1024] y) { y = MatMul(x, W) }", W=wide)
    kernel = wide.reshape(-1)[: 64 * 64 * 9].reshape(64, 64, 3, 3)
    conv = parsed("(float[1,64,8,8] x) => (float[1,64,6,6] y) { y = Conv(x, W) }", W=kernel)
    speeds = {
        (name, target): plan(proto, "quant(bits=8)", target=target).estimated_speed
        for name, proto in (("products", products), ("conv", conv))
        for target in ("avx512-vnni", "portable")
    }
    assert speeds.pop(("products", "avx512-vnni")) > 1
    assert set(speeds.values()) == {1.0}


def test_a_plan_from_python_leaves_the_model_alone():
    proto = product()
    before = proto.SerializeToString()
    found = plan(proto, "quant(bits=8)")
    assert found.planned
    assert found.bytes_after < found.bytes_before
    assert found.error is found.timing is None
    assert proto.SerializeToString() == before


# --------------------------------------------------------------------------- the command itself


def test_the_output_may_stand_after_the_options(place):
    assert main(["in.onnx", *EIGHT, "out.onnx", "--quiet"]) == 0
    assert (place / "out.onnx").exists()


def test_an_empty_text_of_passes_is_not_the_default(capsys):
    refused(["in.onnx", "out.onnx", "--passes", ""], capsys)


@pytest.mark.parametrize("option", ["--report", "--save-recipe"])
@pytest.mark.parametrize("taken", ["in.onnx", "data.npz", "out.onnx"])
def test_no_other_file_takes_the_place_of_a_model_or_of_the_data(option, taken, place, capsys):
    before = contents(place)
    arguments = ["in.onnx", "out.onnx", *EIGHT, "--calib", "data.npz"]
    code = main([*arguments, option, str(place / taken)])
    for name in FILES:
        assert (place / name).read_bytes() == before[name], name
    assert code in (2, 7)
    assert contents(place) == before
