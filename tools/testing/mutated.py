"""check_mutations(): a pass does the same to a model however it is written."""

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.testing.checks import BOUND, EXACT, Failed
from onnx_compress.testing.feeds import feed_of
from onnx_compress.testing.mutations import MUTATIONS
from onnx_compress.testing.outputs import compare, perturbed
from onnx_compress.testing.regression import regression
from onnx_compress.testing.trial import PassLike, tried


def check_mutations(
    pass_: PassLike,
    model: ModelProto,
    mutations: Iterable[str] = tuple(MUTATIONS),
    seed: int = 0,
    tolerance: float | None = None,
) -> list[str]:
    """Run a pass on mutations of a model; results must give what that of the model gives.

    Gives the names of the mutations that had something to write differently. `tolerance` as for
    `check_pass`. Raises Failed.
    """
    plain = tried(pass_, model)
    allowed = tolerance
    if allowed is None:
        allowed = EXACT if plain.exact else getattr(pass_, "weight_error", None) or BOUND
    feed = feed_of(from_proto(model), "normal", 2, seed)
    expected = Session(plain.changed).run(feed)
    shaken = [session.run(feed) for session in perturbed(plain.original, allowed, True)]
    done = []
    for name in mutations:
        mutated = MUTATIONS[name](model, np.random.default_rng(seed))
        if mutated is None:
            continue
        try:
            found = Session(tried(pass_, mutated).changed).run(feed)
        except Exception as error:
            error.add_note(f"in the mutation {name}\n\n{regression(pass_, mutated)}")
            raise
        for at, info in enumerate(model.graph.output):
            what = compare(expected[at], found[at], [other[at] for other in shaken])
            if what:
                text = f"{info.name}, mutation {name}: {what}\n\n{regression(pass_, mutated)}"
                raise Failed("check_mutations", text)
        done.append(name)
    return done
