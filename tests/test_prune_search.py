"""prune without a number: which shares of the channels are tried, by the error allowed."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from test_prune_channels import feeds, layers

from onnx_compress.ir.graph import clone, from_proto, to_proto
from onnx_compress.passes import Context, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import Trial
from onnx_compress.passes.prune import Prune, search
from onnx_compress.passes.prune.structure import ranked


def context() -> Context:
    return Context(targets.load("avx2"), feeds(1)[0], feeds(), memo={})


def tried(redundant: int, allowed: float, errors: list[float]) -> list[float]:
    """Shares that are tried if those before the last have these errors."""
    model, trials, found = from_proto(layers(redundant)), [], []
    for setting, error in zip(
        Prune().search(model, context(), allowed, trials), [*errors, None], strict=False
    ):
        found.append(setting.channels)
        if error is not None:
            trials.append(Trial(setting, error, error <= allowed < inf))
    return found


def test_more_goes_of_what_others_do_as_well():
    plain, redundant = (tried(redundant=count, allowed=0.2, errors=[])[0] for count in (0, 32))
    assert redundant > plain


def test_where_all_channels_matter_nothing_is_tried():
    assert tried(redundant=0, allowed=1e-3, errors=[]) == []


def test_more_error_allowed_more_channels():
    few, many = (tried(0, allowed, [])[0] for allowed in (0.1, 0.3))
    assert few < many


def test_after_an_error_too_large_fewer_channels_are_tried():
    first, second = tried(0, 0.3, errors=[0.5])
    assert second < first


def test_what_leaves_much_of_the_error_is_not_the_end():
    first, second = tried(0, 0.3, errors=[0.1])
    assert second > first
    assert len(tried(0, 0.3, errors=[0.28])) == 1


def test_between_too_few_and_too_many_is_looked_once_more():
    few, many, between, *more = tried(0, 0.3, errors=[0.1, 0.35, 0.15])
    assert few < between < many
    assert not more


def test_without_an_error_nothing_can_be_learnt():
    assert len(tried(0, 0.3, errors=[0.0])) == 1


def test_there_is_an_end():
    assert len(tried(0, 0.3, errors=[0.31] * 10)) <= 4
    assert len(tried(0, 0.3, errors=[0.01] * 10)) <= 4


def test_an_allowed_error_without_bound_has_a_ladder():
    shares = tried(0, inf, errors=[0.5] * 3)
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 4


@pytest.mark.parametrize("allowed", [0.1, 0.3])
def test_what_was_found_out_before_changes_no_byte(allowed):
    model, shared = from_proto(layers()), context()
    setting = next(iter(Prune().search(model, shared, allowed, [])))
    results = []
    for each in (shared, replace(shared, memo=None)):
        trial = clone(model)
        assert setting.run(trial, each).modified
        results.append(to_proto(trial).SerializeToString())
    assert results[0] == results[1]


def test_one_context_may_serve_several_models():
    alone = replace(context(), memo=None)
    for seed in (0, 1):
        pruned = []
        for each in (alone, replace(context(), memo=None)):
            trial = from_proto(layers(seed=seed))
            Prune(channels=0.3).run(trial, each)
            pruned.append(to_proto(trial).SerializeToString())
        assert pruned[0] == pruned[1]


def test_passes_one_after_the_other_see_what_came_before():
    both, steps = from_proto(layers()), from_proto(layers())
    passes = (Prune(channels=0.2), Prune(channels=0.2))
    Pipeline(passes).run(both, context())
    for each in passes:
        each.run(steps, replace(context(), memo=None))
    assert to_proto(both) == to_proto(steps)


@pytest.fixture
def hopeful(monkeypatch):
    """Rankings that expect no loss of anything."""

    def ranks(*given: object) -> object:
        channels, rankings = ranked(*given)
        return channels, [replace(each, losses=0 * each.losses) for each in rankings]

    monkeypatch.setattr(search, "ranked", ranks)


@pytest.mark.usefixtures("hopeful")
def test_a_share_far_too_large_is_halved_whatever_rankings_say():
    shares = tried(0, 0.1, errors=[0.9, 0.5, 0.4])
    assert len(shares) > 2
    for more, less in pairwise(shares):
        assert less <= 0.7 * more  # steps of channels are coarse
    first, second = tried(0, 0.1, errors=[0.105])
    assert 0.7 * first < second < first


@pytest.mark.usefixtures("hopeful")
def test_each_failure_goes_further_back():
    """Though errors are hardly too large."""
    shares = tried(0, 0.1, errors=[0.105, 0.105, 0.105])
    left = [less / more for more, less in pairwise(shares)]
    assert len(left) == 3
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.75
