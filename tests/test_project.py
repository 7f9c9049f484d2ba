"""The project itself: what is packaged, which layer imports which, what the docs promise."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from conftest import ROOT

FOLDERS = {
    "tools": "onnx_compress",
    "ir": "onnx_compress.ir",
    "passes": "onnx_compress.passes",
    "kernels": "onnx_compress.kernels",
}


def _config() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_packaged():
    expected = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            expected.add(".".join([package, *parts]))
    assert set(_config()["tool"]["setuptools"]["packages"]) == expected


def test_no_folder_shadows_the_package():
    assert not (ROOT / "onnx_compress").exists()


def test_importing_leaves_no_top_level_module_of_a_folder():
    code = (
        "import onnx_compress, onnx_compress.cli, onnx_compress.passes.quant, sys; "
        f"print(sorted(set(sys.modules) & {set(FOLDERS)!r}))"
    )
    # away from the repository, where a folder `ir` could be imported
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


def test_slow_libraries_are_not_imported_before_they_are_needed():
    slow = {"onnxruntime", "onnx_graphsurgeon", "llvmlite", "numba", "rich", "onnx.reference"}
    code = (
        f"import onnx_compress, onnx_compress.cli, sys; print(sorted(set(sys.modules) & {slow!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


def test_imports_only_go_down(tmp_path):
    """import-linter, over a copy laid out as installed (an editable install hides the mapping)."""
    package = tmp_path / "onnx_compress"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tools", package, ignore=skip)
    for folder in ("ir", "passes", "kernels"):
        shutil.copytree(ROOT / folder, package / folder, ignore=skip)
    linter = shutil.which("lint-imports", path=os.path.dirname(sys.executable))
    assert linter, "import-linter belongs to the test extra"
    done = subprocess.run(
        [linter, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_is_below_one_megabyte():
    folder = ROOT / "examples" / "digits"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 1_000_000


@pytest.mark.parametrize("folder", ["ir", "passes", "kernels", "tools"])
def test_doctests(folder):
    import doctest
    import importlib

    for path in (ROOT / folder).rglob("*.py"):
        if path.name == "__main__.py":
            continue
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        name = ".".join([FOLDERS[folder], *(part for part in parts if part != "__init__")])
        assert doctest.testmod(importlib.import_module(name)).failed == 0
