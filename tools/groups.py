"""What `inspect` shows of channels: groups, what each could save, and why others stay."""

from dataclasses import dataclass

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import Channels, Group, find_channels
from onnx_compress.ir.graph import Model, Value


@dataclass(frozen=True)
class GroupRow:
    """Channels that are alike. `constants`: the tensors they are part of; the first names it.

    `width`: positions that one channel takes there, more than one for an attention head. `bytes`,
    `macs`: what all of them have a part in; half of the channels saves about half of that.
    """

    name: str
    channels: int
    width: int
    constants: tuple[str, ...]
    bytes: int
    macs: int


def groups_of(model: Model, shapes: Shapes) -> tuple[tuple[GroupRow, ...], dict[str, int]]:
    """Groups, the most bytes first, and how many positions of axes stay, by reason."""
    channels = find_channels(model, shapes)
    rows = [_row(channels, group) for group in channels.groups]
    return tuple(sorted(rows, key=lambda row: -row.bytes)), channels.stuck


def _row(channels: Channels, group: Group) -> GroupRow:
    none, gone = channels.none(), channels.removed(*group.members)
    names: dict[str, None] = {}
    for key, _ in group.axes:
        value = key if isinstance(key, Value) else key[0].input(key[1])
        names |= {value.name: None} if value is not None else {}
    return GroupRow(
        name=group.name,
        channels=group.size,
        width=group.width,
        constants=tuple(names),
        bytes=round(channels.nbytes(none) - channels.nbytes(gone)),
        macs=round(channels.macs(none) - channels.macs(gone)),
    )
