"""Groups of channels of models: how many, and whether removing equals masking for every one.

python -m onnx_compress.bench.channels MODEL.onnx ...
"""

import argparse
from pathlib import Path

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import find_channels
from onnx_compress.ir.graph import files
from onnx_compress.ir.runtime import open_session, silence
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.samples import draw
from onnx_compress.testing.channels import exactness

LIMIT = 1e-5  # relative


def row(path: Path, share: float) -> str:
    """One line of the table. The model is cleaned first, as `compress` does."""
    model = files.load(path)
    (feed,) = draw(model, open_session(model), 1, 0)
    Fold().run(model, Context(targets.load("portable"), feed))
    channels = find_channels(model, Shapes(model, feed))
    none = channels.none()
    everything = channels.removed(*(m for group in channels.groups for m in group.members))
    reached = 1 - channels.nbytes(everything) / max(channels.nbytes(none), 1)
    worst = rounding = 0.0
    over = 0
    for each in exactness(model, feed, share, channels=channels):
        worst, rounding = max(worst, each.error), max(rounding, each.rounding)
        over += each.error > LIMIT
    count = len(channels.groups)
    return (
        f"| {path.stem} | {count} | {sum(group.size for group in channels.groups):,} | "
        f"{reached:.0%} | {worst:.1e} | {rounding:.1e} | {over} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--share", type=float, default=0.3, help="of each group that goes")
    options = parser.parse_args()
    silence()
    print("| model | groups | channels | bytes in groups | error | rounding | over 1e-5 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for path in options.models:
        print(row(path, options.share), flush=True)


if __name__ == "__main__":
    main()
