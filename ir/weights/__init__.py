"""Weights, their uses, and the forms they are stored in."""

from onnx_compress.ir.weights.weight import Inventory, Skipped, Use, Weight, find_weights

__all__ = ["Inventory", "Skipped", "Use", "Weight", "find_weights"]
