"""Solvers on the layers of real models: held-out error and seconds, method by method.

    python -m onnx_compress.bench.fetch FOLDER --torch --only minilm_l6,efficientnet_lite0
    python -m onnx_compress.bench.solvers FOLDER/minilm_l6.onnx=FOLDER/minilm_l6.npz --every 2

A cell is the relative squared error of a layer's outputs, J(V) / J(0), with the moment of inputs
that were not used for fitting, geometric mean over layers; then the seconds of processor for all
layers. Fit and held-out samples come from different sources; with --mixed both have some of each.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from onnx_compress import calibration
from onnx_compress.bench.models import Job, jobs, line
from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import open_session
from onnx_compress.ir.weights.inputs import source
from onnx_compress.ir.weights.weight import find_weights
from onnx_compress.passes.solvers import convolution, masks
from onnx_compress.passes.solvers.binary import (
    decode_bases,
    descend_bases,
    residual_bases,
    ternary,
    ternary_grid,
)
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.gptq import gptq
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.hqq import hqq
from onnx_compress.passes.solvers.loss import damped, relative_loss, shrunk
from onnx_compress.passes.solvers.lowrank import whitened_svd
from onnx_compress.passes.solvers.refit import masked_least_squares
from onnx_compress.passes.solvers.rounding import min_max, mse_clip
from onnx_compress.passes.solvers.solve import TRUST, solve, solve_sparse
from onnx_compress.passes.statistics import Moment, collect

GROUP = 32  # columns that share a scale


@dataclass(frozen=True)
class Layer:
    """`weight`: [G, R, K]; `raw`, `held`: moments [G, K, K] of inputs to fit on and of others.

    `moment`: the first of them, fit to be inverted, its correlations trusted in part.
    """

    name: str
    shape: tuple[int, ...]
    weight: Array
    raw: Array
    moment: Array
    held: Array

    @property
    def diagonal(self) -> Array:
        """Of the moment."""
        return np.asarray(np.diagonal(self.moment, axis1=-2, axis2=-1))

    @property
    def large(self) -> bool:
        """Whether it is a convolution worth taking apart."""
        flat = len(self.shape) != 4 or len(self.weight) > 1
        return not flat and min(self.shape[:2]) >= 16 and min(self.shape[2:]) > 1

    @property
    def kernel(self) -> Array:
        """[O, I, y, x] of a convolution."""
        return np.asarray(self.weight[0].reshape(self.shape))


Method = Callable[[Layer, Any], Array]
Table = tuple[str, Sequence[Layer], Mapping[Any, str], Mapping[str, Method]]


def _coded(layer: Layer, grid: Grid, refit: bool, start: bool, sweeps: int = 4) -> Array:
    begun = gptq(layer.weight, layer.moment, grid) if start else None
    codes, found = descend(layer.weight, layer.moment, grid, begun, sweeps, refit)
    decoded: Array = found.decode(codes)
    return decoded


def _clip(layer: Layer, bits: int) -> Grid:
    return mse_clip(layer.weight, bits, GROUP, importance=layer.diagonal)


def _gptq(layer: Layer, bits: int) -> Array:
    grid = _clip(layer, bits)
    return grid.decode(gptq(layer.weight, layer.moment, grid))


def _bases(layer: Layer, count: int, descent: bool) -> Array:
    signs, scales = residual_bases(layer.weight, count, GROUP, layer.diagonal)
    if descent:
        signs, scales = descend_bases(layer.weight, layer.moment, signs, scales, GROUP)
    return decode_bases(signs, scales, GROUP)


def _ternary(layer: Layer, _: int) -> Array:
    codes, scale = ternary(layer.weight, GROUP, layer.diagonal)
    return decode_bases(codes[None], scale[None], GROUP)


def _masked(layer: Layer, scores: Array, zeros: Any, refit: bool) -> Array:
    pattern = isinstance(zeros, tuple)
    mask = masks.n_of_m(scores, *zeros) if pattern else masks.sparse(scores, zeros)
    if refit:
        return masked_least_squares(layer.weight, layer.moment, mask)
    return layer.weight * mask


def _solved_sparse(layer: Layer, zeros: Any) -> Array:
    if isinstance(zeros, tuple):
        return solve_sparse(layer.weight, layer.raw, 0.0, zeros)
    return solve_sparse(layer.weight, layer.raw, zeros)


def _low_rank(layer: Layer, share: float, moment: str) -> Array:
    w, h = layer.weight[0], layer.moment[0]
    seen = {"none": np.ones(len(h)), "diagonal": np.diagonal(h), "whole": h}[moment]
    first, second = whitened_svd(w, seen, int(share * min(w.shape)))
    return (first @ second)[None]


def _channel(layer: Layer, share: float) -> Array:
    outputs, inputs, tall, wide = layer.shape
    rank = int(share * layer.weight.size) // (inputs * tall * wide + outputs)
    first, last = convolution.channel(layer.kernel, layer.moment[0], rank)
    return np.tensordot(last[:, :, 0, 0], first, 1).reshape(layer.weight.shape)


def _spatial(layer: Layer, share: float) -> Array:
    outputs, inputs, tall, wide = layer.shape
    rank = int(share * layer.weight.size) // (inputs * tall + outputs * wide)
    first, last = convolution.spatial(layer.kernel, layer.moment[0], rank)
    found = np.einsum("orx,riy->oiyx", last[:, :, 0], first[..., 0], optimize=True)
    return np.asarray(found).reshape(layer.weight.shape)


def _tucker(layer: Layer, share: float) -> Array:
    """Both ranks are the same part p of the channels:  p^2 size + p (I^2 + O^2) = share * size."""
    outputs, inputs = layer.shape[:2]
    size, linear = layer.weight.size, inputs**2 + outputs**2
    part = ((linear**2 + 4 * share * size**2) ** 0.5 - linear) / (2 * size)
    ranks = max(int(part * inputs), 1), max(int(part * outputs), 1)
    first, core, last = convolution.tucker(layer.kernel, layer.moment[0], ranks)
    joined = np.tensordot(last[:, :, 0, 0], core, 1)
    found = np.einsum("oayx,ai->oiyx", joined, first[..., 0, 0], optimize=True)
    return np.asarray(found).reshape(layer.weight.shape)


BITS: Mapping[str, Method] = {
    "nearest, min to max": lambda x, bits: min_max(x.weight, bits, GROUP).nearest(x.weight),
    "nearest, clipped by diag(H)": lambda x, bits: _clip(x, bits).nearest(x.weight),
    "HQQ (no data)": lambda x, bits: hqq(x.weight, bits, GROUP).nearest(x.weight),
    "GPTQ": _gptq,
    "descent": lambda x, bits: _coded(x, _clip(x, bits), False, False),
    "descent, scales refitted": lambda x, bits: _coded(x, _clip(x, bits), True, False),
    "GPTQ, descent, refit (`solve`)": lambda x, bits: solve(x.weight, x.raw, bits, GROUP).decode(),
}
CORRECTED: Mapping[str, Method] = {
    "`solve`": lambda x, bits: solve(x.weight[0], x.raw[0], bits, GROUP).decode()[None],
    "`solve(rank=32)`": lambda x, bits: solve(x.weight[0], x.raw[0], bits, GROUP, rank=32).decode()[
        None
    ],
}
SIGNS: Mapping[str, Method] = {
    "nearest sums of signs": lambda x, count: _bases(x, count, False),
    "descent over sums of signs": lambda x, count: _bases(x, count, True),
}
THREE: Mapping[str, Method] = {
    "ternary, 0.7 of the mean": _ternary,
    "ternary, descent": lambda x, _: _coded(
        x, ternary_grid(x.weight, GROUP, x.diagonal), True, False
    ),
}
ZEROS: Mapping[str, Method] = {
    "magnitude": lambda x, zeros: _masked(x, masks.magnitude(x.weight), zeros, False),
    "Wanda": lambda x, zeros: _masked(x, masks.wanda(x.weight, x.moment), zeros, False),
    "Wanda, least squares": lambda x, zeros: _masked(
        x, masks.wanda(x.weight, x.moment), zeros, True
    ),
    "OBS, least squares (`solve_sparse`)": _solved_sparse,
}
RANKS: Mapping[str, Method] = {
    "SVD": lambda x, share: _low_rank(x, share, "none"),
    "SVD, whitened by diag(H)": lambda x, share: _low_rank(x, share, "diagonal"),
    "SVD, whitened": lambda x, share: _low_rank(x, share, "whole"),
}
FACTORS: Mapping[str, Method] = {
    "channel": _channel,
    "spatial": _spatial,
    "Tucker-2": _tucker,
}


def layers(job: Job, every: int, mixed: bool) -> Iterator[Layer]:
    """Every so many layers of a model that multiply something, with moments of both halves."""
    path, data = job
    model = files.load(path)
    feeds = calibration.read(data or path, open_session(model).inputs).feeds
    # the file alternates between the sources of the two halves
    halves = [feeds[0::2], feeds[1::2]]
    if mixed:
        halves = [[*feeds[0::4], *feeds[1::4]], [*feeds[2::4], *feeds[3::4]]]
    found = [(weight, use) for weight in find_weights(model) for use in weight.uses if source(use)]
    taken = found[::every]
    asked: list[Any] = [Moment(use) for _, use in taken]
    looks = [collect(model, asked, half) for half in halves]
    for (weight, use), one in zip(taken, asked, strict=True):
        groups = range(use.layout.groups)
        fit, held = (np.stack([look[one].matrix(at) for at in groups]) for look in looks)
        moment = shrunk(damped(fit), TRUST)
        yield Layer(weight.name, use.layout.shape, use.matrix(weight.array()), fit, moment, held)


def cell(method: Method, chosen: Sequence[Layer], setting: Any) -> str:
    """Error and seconds."""
    errors, spent = [], 0.0
    for layer in chosen:
        begun = process_time()
        found = method(layer, setting)
        spent += process_time() - begun
        errors.append(max(relative_loss(layer.weight, found, layer.held), 1e-12))
    mean = float(np.exp(np.mean(np.log(errors))))
    return f"{mean:.3g} ({spent:.1f} s)"


def tables(chosen: Sequence[Layer]) -> Iterator[Table]:
    """What is set, for which layers, to what, and the methods."""
    full = [layer for layer in chosen if len(layer.weight) == 1]
    kernels = [layer for layer in chosen if layer.large]
    yield "bits a weight", chosen, {8: "8", 4: "4", 3: "3", 2: "2"}, BITS
    wide = [layer for layer in full if min(layer.weight.shape[1:]) >= 128]
    yield f"bits and a correction, {len(wide)} layers", wide, {4: "4", 3: "3", 2: "2"}, CORRECTED
    yield "bases of signs", chosen, {1: "1", 2: "2", 3: "3"}, SIGNS
    yield "levels", chosen, {3: "3"}, THREE
    yield "zeros", chosen, {0.5: "50 %", 0.7: "70 %", (2, 4): "2:4"}, ZEROS
    yield "low rank", full, {0.5: "half"}, RANKS
    yield f"{len(kernels)} kernels in factors", kernels, {0.5: "half the cost"}, FACTORS


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="FOLDER or MODEL.onnx=DATA.npz")
    parser.add_argument("--every", type=int, default=1, help="take every so many layers")
    parser.add_argument("--mixed", action="store_true", help="the same sources to fit and to judge")
    parser.add_argument("--only", default="", metavar="WORD,...", help="tables by their titles")
    parser.add_argument("--set", default="", metavar="TEXT,...", help="columns by their titles")
    options = parser.parse_args()
    for job in jobs(options.models):
        chosen = list(layers(job, options.every, options.mixed))
        print(f"\n{Path(job[0]).stem}: {len(chosen)} layers")
        for title, those, all_settings, methods in tables(chosen):
            taken = options.set.split(",") if options.set else all_settings.values()
            settings = {key: text for key, text in all_settings.items() if text in taken}
            words = options.only.split(",")
            if not those or not settings or not any(word in title for word in words):
                continue
            print(f"\n{line([title, *settings.values()])}\n{line(['---'] * (len(settings) + 1))}")
            for name, method in methods.items():
                cells = [cell(method, those, setting) for setting in settings]
                print(line([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
