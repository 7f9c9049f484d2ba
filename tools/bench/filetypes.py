"""Files of packages, for magika: what a file is, its extension tells."""

import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from onnx_compress.bench.inputs import Sample
from onnx_compress.bench.packages import Packages
from onnx_compress.ir.graph.elements import Array

CLASSES = "magika/models/standard_v3_3/config.min.json"
_SOURCES = (
    ("pip:nilearn", "pip:scikit-image", "pip:gensim", "npm:dejavu-fonts-ttf"),
    ("pip:gradio",),
)
_LABELS = {  # extensions that mean one thing
    **{name: name for name in ("css", "csv", "gif", "html", "json", "mp3", "mp4", "npy", "npz")},
    **{name: name for name in ("png", "rst", "svg", "toml", "ttf", "wav", "woff", "woff2", "xml")},
    **{"c": "c", "gz": "gzip", "jpeg": "jpeg", "jpg": "jpeg", "js": "javascript", "tif": "tiff"},
    **{"md": "markdown", "py": "python", "sh": "shell", "wasm": "wasm", "yaml": "yaml"},
}
_SMALLEST = 256  # bytes
_EDGE, _BLOCK, _NOTHING = 1024, 4096, 256


def files(packages: Packages, half: int) -> Iterator[Sample]:
    """One of each kind, a second of each, and so on; which ones is left to their digests."""
    names = json.loads(packages.read("pip:magika", CLASSES))["target_labels_space"]
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for package in _SOURCES[half]:
        for member in packages.names(package):
            label = _LABELS.get(member.rpartition(".")[2])
            if label is not None:
                order = hashlib.sha256(member.encode()).hexdigest()
                kinds.setdefault(label, []).append((order, package, member))
    ranks = zip_longest(*(sorted(members) for members in kinds.values()))
    for rank in ranks:
        for label, found in zip(kinds, rank, strict=True):
            content = packages.read(*found[1:]) if found else b""
            if len(content) >= _SMALLEST:
                yield {"bytes": ends(content)}, names.index(label)


def ends(content: bytes) -> Array:
    """What the model reads: first and last bytes without blanks around, filled up in between."""
    head, tail = content[:_BLOCK].lstrip(), content[-_BLOCK:].rstrip()
    if len(content) <= _BLOCK:
        head = tail = content.strip()
    start, stop = head[:_EDGE], tail[-_EDGE:]
    filling = [_NOTHING] * (2 * _EDGE - len(start) - len(stop))
    return np.array([[*start, *filling, *stop]], np.int32)
