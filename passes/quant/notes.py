"""Notes: what the report of quant says of all weights together."""

from collections.abc import Sequence

from onnx_compress.passes.amount import amount
from onnx_compress.passes.base import Entry


def memory(unloaded: int) -> tuple[str, ...]:
    """What is small in the file alone."""
    if not unloaded:
        return ()
    what = f"{amount(unloaded)} of weights are small in the file alone"
    return (f"decoded when the model is loaded: {what}",)


def doubtful(doubts: Sequence[Entry]) -> tuple[str, ...]:
    """What the data lack: of the first weight, and how many others there are."""
    if not doubts:
        return ()
    others = f" (and {len(doubts) - 1} others)" if len(doubts) > 1 else ""
    return (f"{doubts[0].subject}{others}: {doubts[0].text}",)
