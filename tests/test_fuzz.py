"""Damaged files: a clear error or a checked result, whatever bytes were changed."""

import subprocess
import sys

import pytest


def fuzz(models, count: int, seed: int) -> None:
    command = [sys.executable, "-m", "onnx_compress.bench.fuzz", *map(str, models)]
    command += ["--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} damaged models" in done.stdout


def test_a_few_damaged_models_end_well(digits):
    fuzz([digits], count=40, seed=7)


@pytest.mark.slow
def test_many_damaged_models_end_well(digits):
    fuzz([digits], count=1000, seed=1000)
