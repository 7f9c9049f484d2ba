"""Intermediate representation: the graph, its weights, what can be said of it, how to run it."""

from onnx_compress.ir.graph import Graph, Model, Node, Value, clone, load, save

__all__ = ["Graph", "Model", "Node", "Value", "clone", "load", "save"]
