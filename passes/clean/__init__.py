"""Exact clean-up."""

from onnx_compress.passes.clean.fold import Fold

__all__ = ["Fold"]
