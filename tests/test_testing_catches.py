"""check_pass finds bugs: one of each kind, and none in the same passes without it."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnx_compress.bench.drawn import drawn
from onnx_compress.passes import Pass
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.quant import Quant
from onnx_compress.testing import CHECKS, Failed, check_pass, models

import broken_functions as functions
import broken_passes as passes
from models_by_text import build, draw

DRAWN = models()
MOST = 200

Tried = Pass | Callable[[ModelProto], ModelProto]


def _pair(function: Callable[..., ModelProto], adds_cost: bool = False) -> tuple[Tried, Tried]:
    pair = (function, partial(function, broken=False))
    for one in pair if adds_cost else ():
        one.adds_cost = True  # type: ignore[attr-defined]
    return pair


# what is wrong: the pass that does it, the correct one, and the checks that may find it
KINDS: dict[str, tuple[tuple[Tried, Tried], tuple[str, ...]]] = {
    "wrong quantization axis": (
        (passes.WrongAxis(), passes.WrongAxis(broken=False)),
        ("outputs_kept",),
    ),
    "scales off by a channel": (
        (passes.ShiftedScales(), passes.ShiftedScales(broken=False)),
        ("outputs_kept",),
    ),
    "exact pass that is not": ((passes.Halved(), passes.Rounded(broken=False)), ("outputs_kept",)),
    "shared weight changed": (
        (passes.Turned(), passes.Turned(broken=False)),
        ("outputs_kept", "loads"),
    ),
    "stale use-def lists": ((passes.StaleUses(), passes.StaleUses(broken=False)), ("valid",)),
    "freed tensor": ((passes.Freed(), passes.Freed(broken=False)), ("LoadError", "valid")),
    "reports, does nothing": (
        (passes.Boastful(), passes.Boastful(broken=False)),
        ("modified_is_different",),
    ),
    "does, reports nothing": (
        (passes.Secretive(), passes.Secretive(broken=False)),
        ("unmodified_is_identical",),
    ),
    "does and says nothing": (
        (passes.Silent(), passes.Silent(broken=False)),
        ("all_accounted_for",),
    ),
    "not idempotent": ((passes.Restless(), passes.Restless(broken=False)), ("idempotent",)),
    "costs more": ((passes.Growing(), passes.Grown(broken=False)), ("cost_not_grown",)),
    "dangling capture": (_pair(functions.unused_removed), ("valid",)),
    "side output removed": (_pair(functions.idle_taken_out), ("valid",)),
    "transB forgotten": (
        _pair(functions.gemm_split, adds_cost=True),
        ("outputs_kept", "loads", "valid"),
    ),
    "bias broadcast wrongly": (
        _pair(functions.bias_split, adds_cost=True),
        ("outputs_kept", "loads"),
    ),
    "metadata dropped": (_pair(functions.rebuilt), ("metadata_kept",)),
    "documentation dropped": (_pair(functions.undocumented), ("metadata_kept",)),
    "unstable order": (_pair(functions.shuffled), ("deterministic",)),
    "interface changed": (_pair(functions.closed), ("interface_kept",)),
    "argument changed": (_pair(functions.in_place), ("argument_untouched",)),
}

each = pytest.mark.parametrize("kind", KINDS)


@cache
def some(count: int, start: int) -> list[ModelProto]:
    return list(drawn(DRAWN, count, start))


def caught(pass_: Tried, found: list[ModelProto]) -> tuple[int, str]:
    """After how many models a pass failed, and in which check."""
    for count, model in enumerate(found, 1):
        try:
            check_pass(pass_, model)
        except Failed as failed:
            return count, failed.check
        except Exception as error:
            return count, type(error).__name__
    return 0, "nothing"


@each
def test_a_bug_is_caught_within_two_hundred_models_by_the_check_for_it(kind):
    (broken, _), checks = KINDS[kind]
    assert caught(broken, some(MOST, 0))[1] in checks


@pytest.mark.slow
@each
def test_so_it_is_among_other_models(kind):
    (broken, _), checks = KINDS[kind]
    for start in range(1000, 6000, 1000):
        count, check = caught(broken, some(MOST, start))
        print(f"{kind}: {count} models, {check}")  # noqa: T201
        assert check in checks


@each
def test_without_its_bug_a_pass_raises_no_alarm(kind):
    (_, correct), _ = KINDS[kind]
    for model in some(8, 7):
        check_pass(correct, model)


@pytest.mark.slow
@each
def test_nor_does_it_in_two_hundred_models(kind):
    (_, correct), _ = KINDS[kind]
    for model in some(MOST, 300):
        check_pass(correct, model)


def test_most_checks_are_the_first_to_find_some_bug():
    finding = {check for _, checks in KINDS.values() for check in checks}
    assert set(CHECKS) - finding == {"reference_agrees"}


def test_a_check_that_is_skipped_finds_nothing():
    model = next(m for m in some(MOST, 0) if fails(passes.ShiftedScales(), m))
    check_pass(passes.ShiftedScales(), model, skip=["outputs_kept"])


def fails(pass_: Tried, model: ModelProto) -> bool:
    try:
        check_pass(pass_, model)
    except Failed:
        return True
    return False


def test_a_tolerance_that_is_given_holds_instead_of_the_one_declared():
    model = next(m for m in some(MOST, 0) if fails(passes.Halved(), m))
    check_pass(passes.Halved(), model, tolerance=2.0**-11, skip=["reference_agrees"])


def test_models_that_the_reference_gives_other_shapes_for_are_not_compared_with_it():
    pool = "MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 0], strides = [1, 1]>"
    text = f"g (float[1,1,3,1] x) => (float[1,1,3,1] y) {{ h = MatMul (x, W)  y = {pool} (h) }}"
    check_pass(Fold(), build(text, W=draw(1, 2)))


def test_what_was_half_precision_is_compared_as_such_when_it_is_a_double():
    """Without the Identity, ONNX Runtime casts the product before it is rounded."""
    text = "p = MatMul (x, W)  i = Identity (p)  y = Cast <to = 11>(i)"
    model = build(
        f"g (float16[N,48] x) => (double[N,4] y) {{ {text} }}", W=draw(48, 4, dtype="float16")
    )
    check_pass(Fold(), model)


def test_a_node_that_takes_over_the_output_of_another_keeps_its_own_documentation():
    """The second Reshape does nothing; the first gives out y in its place."""
    model = build(
        "g (float[3,4,5] x) => (float[3,20] y) { h = Reshape (x, s)  y = Reshape (h, s) }",
        s=np.array([3, 20]),
    )
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    model.graph.node[1].doc_string = "about the second"
    trial = check_pass(Fold(), model)
    assert [node.name for node in trial.result.graph.node] == ["first"]


def test_a_bias_that_was_fitted_to_other_inputs_is_no_alarm():
    """Outputs of zeros are zero before, and not after; that is what correcting means does."""
    weight = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16, 1)
    model = build("g (float[2,16,5] x) => (float[2,4,5] y) { y = Conv (x, w) }", w=weight)
    x = np.random.default_rng(0).standard_normal((2, 16, 5)).astype(np.float32) + 2
    feeds = [{"x": x}, {"x": np.zeros_like(x)}]
    check_pass(Quant(bits=4), model, feeds=feeds)
    with pytest.raises(Failed, match="outputs_kept"):
        check_pass(lambda _: shifted(model), model, feeds=feeds)


def shifted(model):
    """With a bias that nothing asked for."""
    out = type(model).FromString(model.SerializeToString())
    out.graph.node[0].input.append("b")
    out.graph.initializer.append(numpy_helper.from_array(np.full(4, 0.5, np.float32), "b"))
    return out
