"""completion: shells accept their scripts, and complete what is typed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from printed_commands import (
    folder_with_a_model,  # noqa: F401
    shown,
)


def script(shell: str, capsys) -> Path:
    path = Path(f"script.{shell}")
    path.write_text(shown(capsys, "completion", shell))
    return path


def shell_says(shell: str, text: str) -> list[str]:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_script(shell, capsys):
    shell_says(shell, f"{shell} -n {script(shell, capsys)}")


TYPED = {
    "": {"in.onnx", "inspect", "bench", "passes"},
    "in": {"in.onnx", "inspect"},
    "in.onnx out.onnx --dr": {"--dry-run"},
    "in.onnx out.onnx --passes ": {"fold", "prune", "quant"},
    "in.onnx --passes qu": {"quant"},
    "in.onnx out.onnx --target avx": {"avx2", "avx512-vnni"},
    "in.onnx --calib my": {"my data.npz"},
    "my": {"my data.npz"},
    "inspect --js": {"--json"},
    "bench in": {"in.onnx"},
    "bench --see": {"--seed"},
    "passes q": {"quant"},
    "completion z": {"zsh"},
}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_what_is_typed_is_completed(shell, place, capsys):
    (place / "my data.npz").touch()
    source = f"source {script(shell, capsys)}"
    for typed, expected in TYPED.items():
        words = ["onnx-compress", *typed.split(" ")]
        lines = "COMP_WORDS=({}); COMP_CWORD={}; _onnx_compress; printf '%s\\n' {}".format(
            " ".join(f"'{word}'" for word in words), len(words) - 1, '"${COMPREPLY[@]}"'
        )
        if shell == "fish":
            lines = f"complete -C 'onnx-compress {typed}'"
        found = {line.partition("\t")[0] for line in shell_says(shell, f"{source}; {lines}")}
        assert found >= expected, typed
        assert not typed or found == expected, typed


def test_zsh_knows_the_command(capsys):
    load = f"autoload -U compinit; compinit -u -D; source ./{script('zsh', capsys)}"
    (found,) = shell_says("zsh", f"{load}; print $_comps[onnx-compress]")
    assert "_onnx_compress" in found
