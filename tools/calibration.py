"""Calibration and judging data: real inputs of the model, from a file or from Python.

.npz   one array per input:   image [N, 3, 224, 224]   sample i is image[i:i+1]
                              image [N, 1, 3, 224, 224] sample i is image[i]
       or, where shapes vary: image/0, image/1, ...
       __labels__ [N]         the right classes, for accuracy before and after
       __fit__ [N]            1 for samples to fit on, 0 for those to judge on; drawn without
.npy   the same, for a model with one input
folder of these, in the order of their names; or of one .npy for each input, named after it

What is given once (a scalar, a first state, an empty cache) is the same for all samples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.runtime import Feed, Port

LABELS, FIT = "__labels__", "__fit__"
_KINDS = "calibration data are .npz or .npy files of arrays named as the inputs, or a folder"
_BESIDE = {LABELS: "label", FIT: "number"}  # what is said of each sample
Source = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Samples:
    """Inputs one by one, and what was said of each. `numbers`: what errors call them."""

    feeds: Sequence[Feed]
    labels: Sequence[int] | None = None
    numbers: Sequence[int] = ()
    fit: Sequence[int] | None = None

    def halves(self) -> "tuple[Samples, Samples]":
        """To fit on, and to judge on. Raises CalibrationError where either has none.

        Of two neighbours one goes to each, by a fixed draw: neither data in order of their classes
        nor kinds that alternate leave a half without what the other has.
        """
        count = len(self.feeds)
        told = self.fit if self.fit is not None else _drawn(count)
        fit, judge = ([at for at in range(count) if bool(told[at]) == want] for want in (1, 0))
        if not fit or not judge:
            lacking = f"no sample to {'judge' if fit else 'fit'} on"
            hint = "give one to fit and one to judge, at least"
            raise CalibrationError("one sample only" if count == 1 else lacking, hint)
        return self._some(fit), self._some(judge)

    def held(self) -> "Samples":
        """Those to judge on, as `halves` has them; all where there are none."""
        try:
            return self.halves()[1]
        except CalibrationError:
            return self

    def _some(self, chosen: Sequence[int]) -> "Samples":
        labels = [self.labels[at] for at in chosen] if self.labels is not None else None
        return Samples([self.feeds[at] for at in chosen], labels, chosen)


def some(count: int, most: int) -> list[int]:
    """Numbers of `most` samples of `count`: one from each stretch, by a fixed draw."""
    if count <= most:
        return list(range(count))
    edges = np.arange(most + 1) * count // most
    return [int(at) for at in np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def _drawn(count: int) -> list[int]:
    """Of each two in turn, one is 1; of as many it is the first as it is the second."""
    firsts = np.random.default_rng(0).permutation(np.arange(-(-count // 2)) % 2 == 0)
    told = np.stack([firsts, ~firsts], 1).reshape(-1)[:count]
    if count % 2:
        told[-1] = True
    return [int(one) for one in told]


def read(source: Source, ports: Sequence[Port]) -> Samples:
    """Samples that fit the inputs `ports` of a model. Raises CalibrationError."""
    if isinstance(source, str | Path):
        path = Path(source)
        return _folder(path, ports) if path.is_dir() else _stacked(_file(path, ports), ports)
    if isinstance(source, Mapping):
        return _stacked(source, ports)
    return _checked(Samples(_feeds(source)), ports)


def _stacked(arrays: Mapping[str, Any], ports: Sequence[Port]) -> Samples:
    given = {name: _plain(array, name) for name, array in arrays.items() if name not in _BESIDE}
    feeds = _split(given, ports)
    labels, fit = (
        _numbers(arrays[name], name, len(feeds)) if name in arrays else None for name in _BESIDE
    )
    return _checked(Samples(feeds, labels, fit=fit), ports)


def _folder(folder: Path, ports: Sequence[Port]) -> Samples:
    """The files of a folder, one after the other; each says in errors which it is."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))
    if not paths:
        raise CalibrationError("no .npz or .npy files in it", _KINDS, str(folder))
    named = {port.name for port in ports} | set(_BESIDE)
    if all(path.suffix == ".npy" and path.stem in named for path in paths):
        arrays = {path.stem: _array(path) for path in paths}
        return _named(lambda: _stacked(arrays, ports), folder)
    parts = [_named(partial(_one, path, ports), path) for path in paths]
    feeds = [feed for part in parts for feed in part.feeds]
    files = [path.name for path in paths]
    labels = _joined([part.labels for part in parts], files, "labels", folder)
    fit = _joined([part.fit for part in parts], files, FIT, folder)
    return Samples(feeds, labels, fit=fit)


def _joined(
    parts: Sequence[Sequence[int] | None], files: Sequence[str], what: str, folder: Path
) -> list[int] | None:
    """Of all files, or None. Raises CalibrationError where some have it."""
    having = [file for file, part in zip(files, parts, strict=True) if part is not None]
    if having and len(having) < len(parts):
        hint = f"give {what} in all files or in none"
        raise CalibrationError(f"{what} in {having[0]} but not in all files", hint, str(folder))
    return [number for part in parts for number in part or ()] if having else None


def _one(path: Path, ports: Sequence[Port]) -> Samples:
    return _stacked(_file(path, ports), ports)


def _named(read: Callable[[], Samples], path: Path) -> Samples:
    """What `read` gives; its errors name the file or folder."""
    try:
        return read()
    except CalibrationError as error:
        if error.where.startswith(str(path)):
            raise
        raise CalibrationError(str(error), error.hint, str(path)) from None


def _plain(array: Any, name: Any) -> Any:
    """As an array. Raises CalibrationError where it is none."""
    hint = "give plain arrays of numbers by the names of the inputs"
    if not isinstance(name, str):
        raise CalibrationError(f"{name!r} is no name of an input", hint)
    try:
        found = np.asarray(array)
    except ValueError as error:
        raise CalibrationError(f"no array: {error}", hint, name) from None
    return found


def _feeds(source: Any) -> list[Feed]:
    hint = "give a path, arrays by input name, or an iterable of dictionaries of arrays"
    if not isinstance(source, Iterable):
        raise CalibrationError(f"samples cannot be read from {type(source).__name__}", hint)
    feeds: list[Feed] = []
    for index, feed in enumerate(source):
        if not isinstance(feed, Mapping):
            kind = type(feed).__name__
            raise CalibrationError(f"{kind} given, not a dictionary", hint, f"sample {index}")
        feeds.append({name: _plain(array, name) for name, array in feed.items()})
    return feeds


def _file(path: Path, ports: Sequence[Port]) -> Mapping[str, Any]:
    loaded = _array(path)
    if isinstance(loaded, Mapping):
        return loaded
    if len(ports) != 1:
        names = ", ".join(port.name for port in ports)
        hint = f"give a .npz with {names}"
        raise CalibrationError("one array for several inputs", hint, str(path))
    return {ports[0].name: loaded}


def _array(path: Path) -> Any:
    """What a file holds: an array, or several by name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise CalibrationError(reason, _KINDS, str(path)) from None
    except Exception as error:  # numpy and zip files fail in many ways, some of them wordy
        what = "it holds no plain arrays" if "pickle" in str(error) else str(error)
        raise CalibrationError(f"cannot be read: {what}", _KINDS, str(path)) from None


def _numbers(given: Any, name: str, count: int) -> list[int]:
    """What is said of each sample: a label, or whether to fit on it."""
    array, kind = np.asarray(given), _BESIDE[name]
    whole = np.issubdtype(array.dtype, np.integer) or (name == FIT and array.dtype == bool)
    if array.ndim != 1 or not whole:
        hint = f"{kind}s are whole numbers, one for each sample"
        raise CalibrationError(f"{kind}s of {array.dtype} {list(array.shape)}", hint, name)
    if len(array) != count:
        counts = f"{len(array)} {kind}s for {count} samples"
        raise CalibrationError(counts, f"give one {kind} for each sample", name)
    return [int(number) for number in array]


def _split(given: Mapping[str, Any], ports: Sequence[Port]) -> list[Feed]:
    """Samples out of stacked arrays."""
    columns: dict[str, list[Any]] = {}
    for port in ports:
        if port.name in given:
            columns[port.name] = _column(given[port.name], port)
            continue
        numbered = {
            int(name.rpartition("/")[2]): array
            for name, array in given.items()
            if name.rpartition("/")[0] == port.name and _is_number(name.rpartition("/")[2])
        }
        missing = [index for index in range(len(numbered)) if index not in numbered]
        if missing:
            hint = "number them from 0, without gaps"
            raise CalibrationError(f"there is no {port.name}/{missing[0]}", hint)
        if numbered:
            columns[port.name] = [numbered[index] for index in range(len(numbered))]
    known = set(columns) | {name for name in given if name.rpartition("/")[0] in columns}
    strange = sorted(set(given) - known)
    wanted = ", ".join(port.name for port in ports)
    if strange:
        raise CalibrationError(f"the model has no input {strange[0]!r}", f"its inputs are {wanted}")
    counts = {name: len(column) for name, column in columns.items() if len(column) != 1}
    if len(set(counts.values())) > 1:
        raise CalibrationError(
            f"different numbers of samples: {counts}", "give as many of each, or one for all"
        )
    total = max((len(column) for column in columns.values()), default=0)
    if total == 1 and all(not len(column[0]) for column in columns.values() if column[0].ndim):
        raise CalibrationError("no samples", "give at least two; 32 are good")
    return [
        {name: column[0 if len(column) == 1 else index] for name, column in columns.items()}
        for index in range(total)
    ]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _column(array: Any, port: Port) -> list[Any]:
    rank = len(port.shape)
    if array.ndim == rank + 1:
        return list(array)
    if array.ndim == rank and rank:
        first = port.shape[0]
        step = first if isinstance(first, int) and first > 0 else 1
        if not len(array) and not isinstance(first, int):  # a cache with nothing in it yet
            return [array]
        if not len(array) or len(array) % step:
            what = f"{list(array.shape)}, whose rows are no multiple of {step}"
            raise CalibrationError(what, _shape_hint(port), port.name)
        return [array[start : start + step] for start in range(0, len(array), step)]
    if array.ndim == rank:
        return [array]
    shape = f"{list(array.shape)} where the input has {rank} axes"
    raise CalibrationError(f"an array of shape {shape}", _shape_hint(port), port.name)


def _shape_hint(port: Port) -> str:
    dims = ", ".join("?" if dim is None else str(dim) for dim in port.shape)
    return f"the input is {port.dtype} [{dims}]"


def _checked(samples: Samples, ports: Sequence[Port]) -> Samples:
    if not samples.feeds:
        raise CalibrationError("no samples", "give at least two; 32 are good")
    for index, feed in enumerate(samples.feeds):
        missing = [port.name for port in ports if port.name not in feed]
        strange = [name for name in feed if name not in {port.name for port in ports}]
        if missing or strange:
            what = f"no {missing[0]!r}" if missing else f"{strange[0]!r} is no input"
            wanted = ", ".join(port.name for port in ports)
            hint = f"the model's inputs are {wanted}"
            raise CalibrationError(what, hint, f"sample {index}")
        for port in ports:
            _fits(feed[port.name], port, index)
    return samples


def _fits(array: Any, port: Port, index: int) -> None:
    where = f"{port.name}, sample {index}"
    mismatch = port.mismatch(array)
    if mismatch or array.ndim != len(port.shape):
        what = mismatch or f"shape {list(array.shape)}"
        raise CalibrationError(f"{what} given", _shape_hint(port), where)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise CalibrationError("holds NaN or infinity", "leave such samples out", where)
