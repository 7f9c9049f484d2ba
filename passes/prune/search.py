"""Shares of channels that are worth a try, where only the error is given that they may cost.

    error allowed  ->  losses that rankings expect of it  ->  share of the channels  ->  error
                                     ^----- by how much too few they were --------------'

Rankings take losses for independent, so errors of deep models come out larger than expected (up to
5 times on a dozen models), and know nothing of refits, so others come out smaller (up to 3 times);
of few samples they know next to nothing. So after a share that was too much, the way back is half
at most, and a longer one each time: errors may jump from one channel to the next.
"""

from collections.abc import Iterator, Sequence
from math import floor, sqrt

from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Context, Trial
from onnx_compress.passes.prune.allocate import Allocation
from onnx_compress.passes.prune.structure import ranked

_TRIES = 4
_HOPED = 0.7  # times the error expected, at first
_MORE = 1.1  # times as careful as the last error says
_NEAR = 0.75  # of the error allowed, from which on no more is tried
_HALF = 0.5  # the same once a share was too much
_MOST = 0.7  # of the channels
_BACK = (0.5, 0.9)  # of the way from what fitted to what did not, the least and, at first, the most
_LEAST = 0.1  # of the time or of the bytes, below which it is not worth an error
_DIGITS = 1e4  # of a share


def promising(
    model: Model, context: Context, allowed: float, tried: Sequence[Trial]
) -> Iterator[float]:
    """Shares, one after the other, for as long as there are some worth the error."""
    channels, rankings = ranked(model, context)
    times, fine, most, bad = _HOPED, 0.0, _MOST, 1.0
    for _ in range(_TRIES):
        allocation = Allocation(channels, rankings, context.target)
        plan = allocation.run(most, "channels", (allowed / times) ** 2)
        share = floor(plan.channels * _DIGITS) / _DIGITS
        if max(plan.time, plan.nbytes) < _LEAST or not fine < share < bad:
            return
        yield share
        if not tried or not tried[-1].error > 0:  # it saved nothing; or nothing is judged, or lost
            return
        error = min(tried[-1].error, 1.0)
        brought = error / max(sqrt(plan.loss), 1e-12)
        if not tried[-1].fits:
            times = _MORE * max(times, brought)
            failed = sum(not trial.fits for trial in tried)
            # where rankings know little, what they expect says nothing
            back = min(max(allowed / error, _BACK[0]), _BACK[1] ** (2 * failed - 1))
            most, bad = fine + (share - fine) * back, share
        elif error >= (_NEAR if bad == 1.0 else _HALF) * allowed:
            return
        else:
            times, fine = _MORE * brought, share
            most = _MOST if bad == 1.0 else (fine + bad) / 2
