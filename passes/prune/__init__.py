"""Pruning."""

from onnx_compress.passes.prune.prune import Prune

__all__ = ["Prune"]
