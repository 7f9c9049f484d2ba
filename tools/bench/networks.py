"""Four networks whose packages hold weights and no graph, as functions of these weights.

They are written as their checkpoints are laid out; `export` traces them.
"""

from collections.abc import Mapping
from typing import Any

Weights = Mapping[str, Any]
_HALVED = (1, 3, 5, 11)  # blocks of EfficientNet-Lite0 that halve the picture


def minilm(w: Weights, ids: Any, mask: Any) -> Any:
    """MiniLM-L6: BERT with 6 layers of 12 heads, without pooling."""
    import torch
    from torch.nn import functional

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        weight, bias = (w[f"{name}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        return functional.layer_norm(x, weight.shape, weight, bias, 1e-12)

    def heads(x: Any) -> Any:
        return x.reshape(x.shape[0], x.shape[1], 12, 32).transpose(1, 2)

    places = torch.arange(ids.shape[1])
    x = functional.embedding(ids, w["embeddings.word_embeddings.weight"])
    x = x + functional.embedding(places, w["embeddings.position_embeddings.weight"])
    kinds = torch.zeros_like(ids)
    x = x + functional.embedding(kinds, w["embeddings.token_type_embeddings.weight"])
    x = norm(x, "embeddings")
    bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e9
    for layer in (f"encoder.layer.{number}" for number in range(6)):
        names = (f"{layer}.attention.self.{part}" for part in ("query", "key", "value"))
        query, key, value = (heads(linear(x, name)) for name in names)
        shares = torch.softmax(query @ key.transpose(-1, -2) / 32**0.5 + bias, -1)
        mixed = (shares @ value).transpose(1, 2).reshape(x.shape)
        attended = linear(mixed, f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output")
        inner = functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output")
    return x


def smollm2(w: Weights, ids: Any) -> Any:
    """SmolLM2-135M: Llama with 30 layers, 9 heads for queries, 3 for keys; output tied to input."""
    import torch
    from torch.nn import functional

    def norm(x: Any, name: str) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"]

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, w[f"{name}.weight"])

    def heads(x: Any) -> Any:
        return x.reshape(x.shape[0], x.shape[1], -1, 64).transpose(1, 2)

    def turned(x: Any) -> Any:
        even, odd = x[..., 0::2], x[..., 1::2]  # the order of pairs in GGUF
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def repeated(x: Any) -> Any:
        shape = x.shape[0], 3, 3, x.shape[2], 64
        return x[:, :, None].expand(shape).reshape(shape[0], 9, shape[3], 64)

    length = ids.shape[1]
    cos, sin = w["cos"][:length], w["sin"][:length]
    later = w["later"][:length, :length]
    x = functional.embedding(ids, w["token_embd.weight"])
    for layer in (f"blk.{number}" for number in range(30)):
        y = norm(x, f"{layer}.attn_norm")
        query = turned(heads(linear(y, f"{layer}.attn_q")))
        key = repeated(turned(heads(linear(y, f"{layer}.attn_k"))))
        value = repeated(heads(linear(y, f"{layer}.attn_v")))
        shares = torch.softmax(query @ key.transpose(-1, -2) / 64**0.5 + later, -1)
        mixed = (shares @ value).transpose(1, 2).reshape(x.shape)
        x = x + linear(mixed, f"{layer}.attn_output")
        y = norm(x, f"{layer}.ffn_norm")
        gate = functional.silu(linear(y, f"{layer}.ffn_gate"))
        x = x + linear(gate * linear(y, f"{layer}.ffn_up"), f"{layer}.ffn_down")
    return norm(x, "output_norm") @ w["token_embd.weight"].t()


def crepe(w: Weights, frames: Any) -> Any:
    """CREPE, tiny: six convolutions over a frame of sound, BatchNormalization behind Relu."""
    import torch
    from torch.nn import functional

    x = frames[:, None, :, None]
    for number in range(1, 7):
        x = functional.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
        name = f"conv{number}"
        stride = (4, 1) if number == 1 else (1, 1)
        x = functional.relu(functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride))
        x = functional.max_pool2d(_normed(w, x, f"{name}_BN"), (2, 1), (2, 1))
    x = x.permute(0, 2, 1, 3).reshape(-1, 256)
    return torch.sigmoid(functional.linear(x, w["classifier.weight"], w["classifier.bias"]))


def efficientnet_lite0(w: Weights, x: Any) -> Any:
    """EfficientNet-Lite0: 16 blocks of expansion, depthwise convolution, projection; Relu6."""
    from torch.nn import functional

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        weight = w[f"{name}.weight"]
        total = weight.shape[2] - stride  # as TensorFlow pads pictures of even sides
        if total > 0:
            before, after = total // 2, total - total // 2
            x = functional.pad(x, (before, after, before, after))
        groups = len(weight) if "depthwise" in name else 1
        return functional.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Any, name: str) -> Any:
        return _normed(w, x, name)

    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for number in range(16):
        block, start = f"_blocks.{number}", x
        if number:
            x = functional.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
        stride = 2 if number in _HALVED else 1
        x = functional.relu6(norm(conv(x, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and w[f"{block}._project_conv.weight"].shape[0] == start.shape[1]:
            x = x + start
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    return functional.linear(x, w["_fc.weight"], w["_fc.bias"])


def _normed(w: Weights, x: Any, name: str) -> Any:
    from torch.nn import functional

    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3)
