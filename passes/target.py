"""Target: what is fast where, as data.

A target is a file: how fast each reader is by shape, multiples that channel counts should keep,
whether integer products saturate, the newest operator set. Passes choose by it and never by a
stopwatch, so that equal inputs give equal bytes.
"""

import math
import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from onnx_compress.ir.errors import OptionError

_ROWS = (1, 16, 128)  # of activations, as measured
_USUAL = "avx2"  # whose operators of bytes count where a file does not say
_FOLDER = "onnx_compress.passes.targets"
GROUP = "onnx_compress.targets"  # of entry points: a name, and the path of a file like ours


@dataclass(frozen=True)
class Target:
    """One kind of machine and runtime.

    `speed`: reader -> rows [columns, rows, ratio at M = 1, 16, 128], time of float32 over time of
    the reader; of `static`, bytes to bytes. `convolutions`: reader -> rows [channels, window, rows,
    ratio], of one group.

    All else is in products of float32, as many as are done in the time of it. `conversion`: one
    number turned to a byte or back. `motion`: one number that an operator gives, written and read
    again. `reading`: one number of a matrix, read to be multiplied. `start`: what an
    operator of integers takes longer to start. `operators`: what one of bytes saves for each
    number that it gives, by operator, and `moved`, `scaled`, `spread`, `tap`: see the files.

    `maximum_opset`: newest operator set that a pass may raise a model to; 0: any.
    """

    name: str
    description: str
    measured: bool
    channel_multiple: int
    saturates: bool
    maximum_opset: int
    features: tuple[str, ...]
    speed: Mapping[str, Sequence[Sequence[float]]]
    convolutions: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    conversion: float = 30.0
    motion: float = 16.0
    reading: float = 18.0
    start: float = 5e4
    operators: Mapping[str, float] = field(default_factory=dict)

    def convolution_speed(self, reader: str, channels: int, window: int, rows: int) -> float | None:
        """How much faster a convolution is in this form; None where the target has none.

        `channels`, `window`, `rows`: of the weight of one group, which has channels * window
        columns. Taken from the nearest measured size.
        """
        size = [math.log(max(each, 1)) for each in (channels, window, rows)]

        def distance(row: Sequence[float]) -> float:
            return math.dist([math.log(each) for each in row[:3]], size)

        table = self.convolutions.get(reader)
        return min(table, key=distance)[3] if table else None

    def product_speed(self, reader: str, columns: int, rows: int, m: int | None) -> float | None:
        """How much faster a matrix product is in this form; None where the target has no such form.

        `m`: rows of activations; unknown counts as the slowest. Taken from the measured size
        nearest in the number of weights, then in columns, and between the measured M by logarithm.
        """
        table = self.speed.get(reader)
        if not table:
            return None
        size, shape = math.log(max(columns * rows, 1)), math.log(max(columns, 1))

        def distance(row: Sequence[float]) -> tuple[float, float]:
            return abs(math.log(row[0] * row[1]) - size), abs(math.log(row[0]) - shape)

        ratios = min(table, key=distance)[2:]
        if m is None:
            return min(ratios)
        at = math.log(min(max(m, _ROWS[0]), _ROWS[-1]))
        for low in range(len(_ROWS) - 1):
            left, right = math.log(_ROWS[low]), math.log(_ROWS[low + 1])
            if at <= right:
                share = (at - left) / (right - left)
                return ratios[low] * (1 - share) + ratios[low + 1] * share
        return ratios[-1]


def shipped() -> list[str]:
    """Names of the targets that come with the package."""
    files = resources.files(_FOLDER).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def names() -> list[str]:
    """Names of all targets installed: ours, and those of other packages."""
    return sorted({*shipped(), *(point.name for point in entry_points(group=GROUP))})


def load(name: str) -> Target:
    """A target by name, or one from a TOML file. Raises OptionError.

    Names are those of shipped files, then those of entry points of the group
    `onnx_compress.targets`, each of which is a path, or a resource with `read_text`.
    """
    try:
        text = _text(name)
        return _parse(Path(name).stem if name.endswith(".toml") else name, tomllib.loads(text))
    except OSError:
        hint = f"there are {', '.join(names())}; or give the path of a .toml file"
        raise OptionError(f"no target {name!r}", hint) from None
    except (
        tomllib.TOMLDecodeError,
        AttributeError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        UnicodeDecodeError,
    ) as error:
        hint = "compare it with a file in passes/targets"
        raise OptionError(f"the target {name} cannot be read: {error}", hint) from None


def _text(name: str) -> str:
    if name in shipped():
        return resources.files(_FOLDER).joinpath(f"{name}.toml").read_text("utf-8")
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        return Path(name).read_text("utf-8")
    where = " and ".join(sorted({point.value for point in points}))
    hint = "report it to whoever made it, or remove its package"
    if " and " in where:
        raise OptionError(f"two targets are called {name!r}: {where}", hint)
    try:
        place = points[0].load()
        return str((Path(place) if isinstance(place, str) else place).read_text("utf-8"))
    except Exception as error:  # a package may be broken in any way
        raise OptionError(
            f"the target {name!r} of {where} cannot be read: {error}", hint
        ) from error


def _parse(name: str, data: dict[str, Any]) -> Target:
    tables = data.get("speed", {}).items()
    convolutions = {
        reader: table["convolution"] for reader, table in tables if "convolution" in table
    }
    speed = {
        reader: table["product"]
        for reader, table in tables
        if "product" in table or reader not in convolutions
    }
    prices = data if "operators" in data else tomllib.loads(_text(_USUAL))
    for reader, rows in convolutions.items():
        for row in rows:
            if len(row) != 4 or not all(float(number) > 0 for number in row):
                raise ValueError(f"speed.{reader} has the row {row}")
    for reader, rows in speed.items():
        for row in rows:
            if len(row) != 2 + len(_ROWS) or not all(float(number) > 0 for number in row):
                raise ValueError(f"speed.{reader} has the row {row}")
    for key, kind in (("measured", bool), ("saturates", bool), ("channel_multiple", int)):
        if type(data[key]) is not kind:
            raise ValueError(f"{key} is {data[key]!r}, not of type {kind.__name__}")
    return Target(
        name=name,
        description=str(data["description"]),
        measured=data["measured"],
        channel_multiple=data["channel_multiple"],
        saturates=data["saturates"],
        maximum_opset=int(data["maximum_opset"]),
        features=tuple(data["features"]),
        speed=speed,
        convolutions=convolutions,
        operators={op: float(price) for op, price in prices["operators"].items()},
        conversion=float(data.get("conversion", 30.0)),
        motion=float(data.get("motion", 16.0)),
        reading=float(data.get("reading", 18.0)),
        start=float(data.get("start", 5e4)),
    )


@cache
def host() -> Target:
    """The shipped target that fits this processor."""
    import llvmlite.binding as llvm

    try:
        features = {name for name, has in llvm.get_host_cpu_features().items() if has}
    except RuntimeError:  # not known for every processor
        features = set()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return load("arm64")
    for name in ("avx512-vnni", "avx2"):
        target = load(name)
        if set(target.features) <= features:
            return target
    return load("portable")
