"""The cheapest way to part a graph in two: a minimum cut.

    minimise    sum_i  one(i) or other(i)   +   sum_(u, v) cost   where u is on the one side
                                                                   and v on the other

The dual of a maximal flow, so the answer is exact. Source: Ford and Fulkerson, 1956.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_LARGE = 1 << 28  # what all costs together become: flows are of 32 bits


def minimum_cut(
    one: Sequence[float], other: Sequence[float], arcs: Sequence[tuple[int, int, float]]
) -> Array:
    """Which of n things are on the one side: bool [n]; of equal costs, as few as can be.

    `one`, `other`: what each thing costs there, not below zero. `arcs`: (u, v, cost) is paid where
    u is on the one side and v on the other; infinite costs are never paid.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = len(one)
    source, sink = count, count + 1
    rows = [*[source] * count, *range(count), *(u for u, _, _ in arcs)]
    columns = [*range(count), *[sink] * count, *(v for _, v, _ in arcs)]
    costs = np.array([*other, *one, *(cost for _, _, cost in arcs)], np.float64)
    finite = np.isfinite(costs)
    total = max(costs[finite].sum(), 1e-30)
    units = np.full(len(costs), 2 * _LARGE)
    units[finite] = np.rint(costs[finite] / total * _LARGE)
    # arcs of the same ends add up; they must not pass what 32 bits hold
    capacity = coo_array((units, (rows, columns)), (count + 2, count + 2)).tocsr()
    capacity.data = np.minimum(capacity.data, 2 * _LARGE).astype(np.int32)
    capacity = capacity.astype(np.int32)
    left = capacity - maximum_flow(capacity, source, sink).flow
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    side = np.zeros(count + 2, bool)
    side[reached] = True
    return np.asarray(side[:count])
