"""Logits: outputs as they are before the Softmax at the end, for what is to be measured smoothly.

    x -> Softmax -> Reshape ... -> y        y' = Reshape(x) ...

Where two classes are close, a little noise turns probabilities over: on few samples that hides what
layers do.
"""

from onnx_compress.ir.graph import Model, Node, Value

_SQUASHES = ("Softmax", "LogSoftmax")
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")


def give_logits(model: Model) -> None:
    """Let the outputs of a model be so; those that nothing squashes stay as they are."""
    for value, _ in list(model.graph.outputs):
        last = _squashing(value)
        if last is not None and (before := last.input(0)) is not None:
            model.replace_uses(last.output, before)


def _squashing(value: Value) -> Node | None:
    """The Softmax that an output comes from, if it serves nothing else."""
    while (node := value.producer) is not None and len(value.uses) + len(value.exits) == 1:
        if node.op in _SQUASHES:
            return node
        source = node.input(0)
        if node.op not in _MOVES or source is None:
            break
        value = source
    return None
