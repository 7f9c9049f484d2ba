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

# every weight stays one stored tensor of the same bytes and uses, so a pass must choose alike
ALIKE = frozenset(
    {
        "rename_all",
        "reorder_nodes",
        "identity_inserted",
        "dead_nodes",
        "custom_domain_node",
        "as_constant_nodes",
        "as_inputs",
        "behind_identity",
        "other_opset",
    }
)


def check_mutations(
    pass_: PassLike,
    model: ModelProto,
    mutations: Iterable[str] = tuple(MUTATIONS),
    seed: int = 0,
    tolerance: float | None = None,
) -> list[str]:
    """Run a pass on mutations of a model; results must give what that of the model gives.

    A lossy pass must also change as many weights where no weight is stored otherwise (ALIKE).
    Gives the names of the mutations that had something to write differently. `tolerance` as for
    `check_pass`. Raises Failed.
    """
    plain = tried(pass_, model)
    allowed = tolerance
    if allowed is None:
        allowed = EXACT if plain.exact else getattr(pass_, "weight_error", None) or BOUND
    feed = feed_of(from_proto(model), "normal", 2, seed)
    expected = Session(plain.changed).call(feed)
    shaken = [session.call(feed) for session in perturbed(plain.changed, allowed, True)]
    done = []
    for name in mutations:
        mutated = MUTATIONS[name](model, np.random.default_rng(seed))
        if mutated is None:
            continue
        try:
            trial = tried(pass_, mutated)
            found = Session(trial.changed).call(feed)
        except Exception as error:
            error.add_note(f"in the mutation {name}\n\n{regression(pass_, mutated)}")
            raise
        for at, info in enumerate(model.graph.output):
            what = compare(expected[at], found[at], [other[at] for other in shaken])
            if what:
                text = f"{info.name}, mutation {name}: {what}\n\n{regression(pass_, mutated)}"
                raise Failed("check_mutations", text)
        counts = [len(other.report.changes) if other.report else 0 for other in (plain, trial)]
        if name in ALIKE and not plain.exact and counts[0] != counts[1]:
            text = f"mutation {name}: {counts[1]} changes where {counts[0]} were"
            raise Failed("check_mutations", f"{text}\n\n{regression(pass_, mutated)}")
        done.append(name)
    return done
