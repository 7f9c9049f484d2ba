"""Real inputs as calibration data: half of the sources to fit on, the other half to judge on.

A maker gives samples of the half that it is asked for, 0 or 1; the two halves share no photograph,
speaker, text, instrument or package. In the file they alternate, and `__fit__` says which is which;
they are in a drawn order, as `compress` compares outputs on some of them only.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from onnx_compress.bench.packages import Packages
from onnx_compress.calibration import FIT, LABELS
from onnx_compress.ir.graph.elements import Array

Sample = tuple[dict[str, Array], int | None]  # what one run takes, and the right class if known
Maker = Callable[[Packages, int], Iterator[Sample]]
EACH = 32  # samples of a half


def collect(packages: Packages, make: Maker) -> list[Sample]:
    """Samples of both halves in turn, as many of one as of the other."""
    halves = [list(islice(make(packages, half), EACH)) for half in (0, 1)]
    for half in halves:
        Random(0).shuffle(half)
    return [sample for pair in zip(*halves, strict=False) for sample in pair]


def save(samples: Sequence[Sample], path: Path) -> None:
    """Write the .npz that `compress` reads, in one step."""
    arrays: dict[str, Array] = {FIT: np.arange(len(samples)) % 2 == 0}
    for name in samples[0][0]:
        column = [feed[name] for feed, _ in samples]
        if column[0].ndim == 0:
            arrays[name] = column[0]  # the same for all
        elif len({array.shape for array in column}) == 1:
            arrays[name] = np.stack(column)
        else:
            arrays |= {f"{name}/{index}": array for index, array in enumerate(column)}
    labels = [label for _, label in samples if label is not None]
    if labels:
        arrays[LABELS] = np.array(labels, np.int64)
    part = path.with_name(f"{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    os.replace(part, path)
