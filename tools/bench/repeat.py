"""Equal runs give equal bytes: across processes, hash seeds and numbers of threads.

    python -m onnx_compress.bench.repeat model.onnx=data.npz other.onnx --passes "quant(bits=8)"

One line a model: the SHA-256 of the result, or how many different ones there were.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = (("0", 1), ("1", 2), ("12345", 1), ("random", 2))  # hash seed, threads


def results(model: str, data: str, passes: str) -> set[str]:
    """Digests of the files that equal runs write, or what they said instead."""
    found = set()
    for seed, threads in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.onnx"
            command = [sys.executable, "-m", "onnx_compress", model, str(out), "--quiet"]
            command += ["--passes", passes, "--threads", str(threads)]
            command += ["--calib", data] if data else []
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            digest = hashlib.sha256()
            for path in sorted(out.parent.glob("out.onnx*")):
                digest.update(path.name.encode() + path.read_bytes())
            found.add(done.stderr.strip() or digest.hexdigest())
    return found


def main() -> None:
    """Run, and end with 1 if any two runs differed or failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="MODEL.onnx or MODEL.onnx=DATA.npz")
    parser.add_argument("--passes", default="quant(bits=8)")
    options = parser.parse_args()
    wrong = 0
    for given in options.models:
        model, _, data = given.partition("=")
        found = results(model, data, options.passes)
        same = len(found) == 1 and not any(" " in said for said in found)
        wrong += not same
        print(
            Path(model).name, next(iter(found)) if same else f"{len(found)} DIFFERENT", flush=True
        )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
