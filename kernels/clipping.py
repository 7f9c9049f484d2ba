"""Which of some grids rounds numbers best:  the sum of d (w - v)^2 over each group of a row.

v = scale (q - zero)      q = 0 ... top, the nearest
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel, worth

Array = npt.NDArray[Any]


def cheapest(w: Array, d: Array, scale: Array, zero: Array, group: int, top: int) -> Array:
    """The grid with the least sum for each group, int64 [R, G]; of equal ones the first.

    `w`: float32 [R, K]; `d`: float32 [R, K], or [1, K] for all rows; `scale`, `zero`: float32
    [grids, G, R]; `group`: columns of a group, of which the last may have fewer. Sums are in single
    precision, column by column, on any processor.
    """
    groups, rows = scale.shape[1:]
    best = np.zeros((rows, groups), np.int64)
    if best.size:
        search = _cheapest if worth(w.size) else _cheapest_of_few
        given = [np.ascontiguousarray(each, np.float32) for each in (w, d, scale, zero)]
        search(given[0], given[1], given[2], given[3], group, np.float32(top), best)
    return best


def _cheapest_of_few(
    w: Array, d: Array, scale: Array, zero: Array, size: int, top: Any, best: Array
) -> None:
    """The same bits as the kernel."""
    for group in range(scale.shape[1]):
        place = slice(group * size, (group + 1) * size)
        numbers = np.ascontiguousarray(w[:, place].T)
        costs = np.ascontiguousarray(d[:, place].T)
        least = np.full(len(w), np.inf, np.float32)
        for grid, (step, shift) in enumerate(zip(scale[:, group], zero[:, group], strict=True)):
            exact = numbers / step
            off = exact - (np.clip(np.rint(exact + shift), np.float32(0), top) - shift)
            off = off * off * costs
            total = np.zeros(len(w), np.float32)
            for row in off:  # one after the other, as the kernel adds them up
                total += row
            cost = total * (step * step)
            best[cost < least, group] = grid
            least = np.minimum(cost, least)


@kernel(writes=("best",))  # 16 rows go through the grids together
def _cheapest(w: Any, d: Any, scale: Any, zero: Any, size: int, top: Any, best: Any) -> None:
    rows, columns = w.shape
    grids, groups = scale.shape[0], scale.shape[1]
    numbers, costs = np.empty((size, 16), np.float32), np.empty((size, 16), np.float32)
    step, shift = np.empty(16, np.float32), np.empty(16, np.float32)
    total, least = np.empty(16, np.float32), np.empty(16, np.float32)
    for first in range(0, rows, 16):
        for group in range(groups):
            start = group * size
            width = min(size, columns - start)
            for lane in range(16):
                row = min(first + lane, rows - 1)  # the last one again, where there are no more
                for k in range(width):
                    numbers[k, lane] = w[row, start + k]
                    costs[k, lane] = d[row if len(d) > 1 else 0, start + k]
            least[:] = np.inf
            for grid in range(grids):
                for lane in range(16):
                    row = min(first + lane, rows - 1)
                    step[lane], shift[lane] = scale[grid, group, row], zero[grid, group, row]
                    total[lane] = 0
                for k in range(width):
                    for lane in range(16):
                        exact = numbers[k, lane] / step[lane]
                        code = np.rint(exact + shift[lane])
                        code = np.float32(0) if code < 0 else code
                        code = top if code > top else code
                        off = exact - (code - shift[lane])
                        total[lane] += off * off * costs[k, lane]
                for lane in range(16):
                    cost = total[lane] * (step[lane] * step[lane])
                    if cost < least[lane]:
                        least[lane] = cost
                        if first + lane < rows:
                            best[first + lane, group] = grid
