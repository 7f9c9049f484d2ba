"""collect(): batches of sums, batches of samples, bodies, masks, and what cannot be."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.statistics import (
    CrossMoment,
    Frequency,
    Histogram,
    Look,
    Mean,
    Moment,
    Reach,
    Spread,
    collect,
)

from graphs import node, parsed, view


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


NETWORK = """(float[b,3,9,9] x) => (float y) {
    a = Conv<pads = [1,1,1,1]>(x, w1)
    r = Relu(a)
    d = Conv<group = 4>(r, w2)
    f = Flatten(d)
    p = Gemm<transB = 1>(f, w3)
    y = MatMul(p, w4)
}"""
WEIGHTS = {
    "w1": normal(4, 3, 3, 3),
    "w2": normal(4, 1, 3, 3),
    "w3": normal(8, 196),
    "w4": normal(8, 2),
}


def network():
    model = from_proto(parsed(NETWORK, **WEIGHTS))
    return model, [use for weight in find_weights(model) for use in weight.uses]


def feeds(*sizes):
    x = normal(sum(sizes), 3, 9, 9, seed=1)
    return [{"x": part} for part in np.split(x, np.cumsum(sizes)[:-1])]


def same(one, other):
    assert one.rows == other.rows
    assert np.array_equal(one.mean, other.mean)
    for a, b in zip(one.stored, other.stored, strict=True):
        assert np.array_equal(a, b)


def test_weights_of_few_columns_may_see_more_windows():
    few, many = Look(4.0, samples=8), Look(4.0, samples=8, work=1 << 26)
    assert few.limit(64) == 512 // 8
    assert many.limit(64) == (1 << 26) // 64**2 // 8
    assert replace(many, most=16.0).limit(64) == 16 * 64 // 8
    assert many.limit(4096) == few.limit(4096) == 4 * 4096 // 8


@pytest.mark.parametrize("windows", [None, 1.0])
def test_nothing_depends_on_batches_of_samples(windows):
    model, uses = network()
    requests = [Moment(use) for use in uses[:2]]  # what no product changed in the last bit
    look = Look(windows)
    whole = collect(model, requests, feeds(6), look=look)
    for sizes in ((1,) * 6, (2, 4), (5, 1)):
        parts = collect(model, requests, feeds(*sizes), look=look)
        for request in requests:
            same(whole[request], parts[request])


@pytest.mark.parametrize(("memory", "threads"), [(1, 1), (200_000, 2), (1 << 30, 3)])
def test_nothing_depends_on_batches_of_sums_or_on_threads(memory, threads):
    model, uses = network()
    requests = [*(Moment(use) for use in uses), *(Mean(use) for use in uses)]
    before = collect(model, requests, feeds(2, 2, 2))
    told = []
    after = collect(
        model,
        requests,
        feeds(2, 2, 2),
        memory=memory,
        threads=threads,
        progress=lambda done, total: told.append((done, total)),
    )
    for request in requests[:4]:
        same(before[request], after[request])
        assert np.array_equal(before[Mean(request.use)], after[Mean(request.use)])
    assert told == [(at + 1, told[-1][1]) for at in range(len(told))]
    assert told[-1][0] == told[-1][1]
    assert len(told) > 3 or memory > 1  # one run of all samples for each batch


def test_equal_requests_share_a_sum():
    model = view(
        "(float[n,4] x) => (float y, float z) { y = MatMul(x, a) z = MatMul(x, b) }",
        a=normal(4, 4),
        b=normal(4, 4),
    )
    first, second = [Moment(weight.uses[0]) for weight in find_weights(model)]
    found = collect(model, [first, second], [{"x": normal(3, 4)}])
    assert found[first] is found[second]


BODIES = """(bool c, float[n,3] x, int64 m) => (float y) {
    s = Add(x, x)
    a = If (c) <
        then_branch = t () => (float r) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> { r = MatMul(s, w) },
        else_branch = e () => (float q) { q = Identity(s) }>
    g = Cast<to = 9>(m)
    y = Loop (m, c, a) <body = b (int64 i, bool go, float[n,3] h) => (bool on, float[n,3] o)
        <float[3,3] v = {0,1,0,0,0,1,1,0,0}> { on = Identity(go) k = MatMul(h, v) o = Add(k, s) }>
}"""


def test_bodies_are_seen_as_often_as_they_are_run():
    model = view(BODIES)
    branch, turns = [Moment(weight.uses[0]) for weight in find_weights(model)]
    x = normal(2, 3)
    feed = {"c": np.array(True), "x": x, "m": np.array(3, np.int64)}
    look = Look(windows=None)
    found = collect(model, [branch, turns], [feed, {**feed, "c": np.array(False)}], look=look)
    w, v = (weight.array() for weight in find_weights(model))
    s = 2 * x
    assert found[branch].rows == 2
    assert np.allclose(found[branch].matrix(), s.T @ s / 2, rtol=1e-6)
    seen, h = [], s @ w
    for _ in range(3):
        seen.append(h)
        h = h @ v + s
    rows = np.concatenate(seen)
    assert found[turns].rows == len(rows)
    assert np.allclose(found[turns].matrix(), rows.T @ rows / len(rows), rtol=1e-6)


def test_scans_are_seen_step_by_step():
    text = """(float[3] h, float[t,3] x) => (float y, float[t,3] z) {
        y, z = Scan<num_scan_inputs = 1, scan_input_directions = [1], body = b
            (float[3] s, float[3] e) => (float[3] o, float[3] p)
            <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {
                a = Add(s, e) o = MatMul(a, w) p = Identity(a) }>(h, x)
    }"""
    model = view(text)
    (weight,) = find_weights(model)
    request = Moment(weight.uses[0])
    h, x = normal(3), normal(4, 3)
    found = collect(model, [request], [{"h": h, "x": x}])[request]
    rows, s = [], h
    for e in x[::-1]:
        rows.append(s + e)
        s = (s + e) @ weight.array()
    assert found.rows == 4
    assert np.allclose(found.matrix(), np.stack(rows).T @ np.stack(rows) / 4, rtol=1e-4)


def test_what_a_mask_hides_counts_for_nothing():
    text = "(float[b,s,4] x, int64[b,s] mask) => (float y) { y = MatMul(x, w) }"
    model = view(text, w=normal(4, 4))
    (weight,) = find_weights(model)
    use = weight.uses[0]
    x, mask = normal(2, 3, 4), np.array([[1, 1, 0], [1, 0, 0]])
    tap = Tap(use.node, 0)
    requests = [Moment(use), Mean(use), Histogram(tap), Spread(tap), Reach(tap)]
    x[mask == 0] = 1e6
    found = collect(model, requests, [{"x": x, "mask": mask}], mask="mask")
    kept = x[mask == 1]
    assert found[requests[0]].rows == 3
    assert np.allclose(found[requests[0]].matrix(), kept.T @ kept / 3, rtol=1e-5)
    assert np.allclose(found[requests[1]][0], kept.mean(0), rtol=1e-5)
    assert found[requests[2]].high == kept.max()
    assert found[requests[3]].rows == 3
    reach = found[requests[4]]
    assert (reach.low == kept.min(0)).all()
    assert (reach.high == kept.max(0)).all()
    assert np.allclose(reach.square, (kept**2).mean(0), rtol=1e-6)
    with pytest.raises(CalibrationError, match="no input 'mass'"):
        collect(model, requests, [{"x": x, "mask": mask}], mask="mass")


def test_other_lengths_and_empty_ones():
    model = view("(float[n,4] x) => (float y) { y = MatMul(x, w) }", w=normal(4, 4))
    use = next(iter(find_weights(model))).uses[0]
    parts = [normal(n, 4, seed=n) for n in (3, 0, 700, 1)]
    found = collect(model, [Moment(use)], [{"x": x} for x in parts])[Moment(use)]
    x = np.concatenate(parts)
    assert found.rows == len(x)
    assert np.allclose(found.matrix(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    nothing = collect(model, [Moment(use)], [{"x": parts[1]}])[Moment(use)]
    assert nothing.rows == 0
    assert not nothing.reliable
    assert np.isfinite(nothing.damped()).all()


def test_wide_inputs_have_blocks_and_say_so():
    model = view("(float[n,10] x) => (float y) { y = MatMul(x, w) }", w=normal(10, 4))
    use = next(iter(find_weights(model))).uses[0]
    x = normal(50, 10)
    found = collect(model, [Moment(use)], [{"x": x}], look=Look(widest=4))[Moment(use)]
    whole = x.T @ x / 50
    assert [len(block) for block in found.blocks()] == [4, 4, 2]
    assert np.allclose(found.matrix()[:4, :4], whole[:4, :4], atol=1e-6)
    assert not found.matrix()[:4, 4:].any()
    for place, part in found.parts():
        assert np.allclose(part.matrix(), whole[place, place], atol=1e-6)
        assert np.allclose(part.mean[0], x[:, place].mean(0), atol=1e-6)
        assert part.damped().shape == (1, part.columns, part.columns)
    assert [place.stop for place, _ in found.parts()] == [4, 8, 10]
    assert np.allclose(found.diagonal(), np.diagonal(whole), atol=1e-6)
    assert "3 blocks" in found.note


def test_few_rows_are_trusted_by_their_share():
    model = view("(float[n,10] x) => (float y) { y = MatMul(x, w) }", w=normal(10, 4))
    use = next(iter(find_weights(model))).uses[0]
    x = normal(5, 10)
    found = collect(model, [Moment(use)], [{"x": x}])[Moment(use)]
    assert "5 rows of data for 10 columns" in found.note
    whole, mean = (x.T @ x / 5).astype(np.float64), x.mean(0, dtype=np.float64)
    spread = whole - np.outer(mean, mean)
    expected = 0.475 * spread + 0.525 * np.diag(np.diagonal(spread)) + np.outer(mean, mean)
    expected += 0.01 * np.diagonal(whole).mean() * np.eye(10)
    assert np.allclose(found.damped()[0], expected, atol=1e-6)
    assert (np.linalg.eigvalsh(found.damped()) > 0).all()


def test_a_changed_model_and_the_one_before():
    """W E[x x'T] E[x' x'T]^-1 is the weight that makes up for a change before it."""
    text = "(float[n,6] x) => (float y) { h = MatMul(x, a) y = MatMul(h, w) }"
    a, w, x = normal(6, 6), normal(6, 3, seed=2), normal(400, 6, seed=3)
    changed = a + 0.3 * normal(6, 6, seed=4)
    before, after = view(text, a=a, w=w), view(text, a=changed, w=w)
    old, new = (list(find_weights(model))[1].uses[0] for model in (before, after))
    requests = [Moment(new), CrossMoment(new, before, old)]
    found = collect(after, requests, [{"x": x[:150]}, {"x": x[150:]}])
    cross, moment = found[requests[1]][0], found[requests[0]].matrix()
    assert np.allclose(cross, (x @ a).T @ (x @ changed) / 400, rtol=1e-4, atol=1e-4)
    better = w.T @ cross @ np.linalg.inv(moment)
    assert np.allclose(x @ changed @ better.T, x @ a @ w, atol=1e-3)


def test_rows_of_tables_are_counted():
    model = view("(int64[n] i) => (float y) { y = Gather(w, i) }", w=normal(5, 3))
    use = next(iter(find_weights(model))).uses[0]
    found = collect(model, [Frequency(use)], [{"i": np.array([0, -1, 4, 2])}, {"i": np.array([2])}])
    assert found[Frequency(use)].tolist() == [1, 0, 2, 0, 2]
    with pytest.raises(UnsupportedError, match="Gather"):
        collect(model, [Moment(use)], [{"i": np.array([0])}])


def test_histograms_do_not_depend_on_order():
    model = view("(float[n] x) => (float y) { y = Relu(x) }")
    tap = Tap(node(model, "Relu"), 0)
    parts = [normal(300), 1e3 * normal(20, seed=1), np.zeros(3, np.float32), 1e-30 * normal(9)]
    parts.append(np.array([np.nan, np.inf], np.float32))
    found = [
        collect(model, [Histogram(tap)], [{"x": x} for x in order])[Histogram(tap)]
        for order in (parts, parts[::-1])
    ]
    x = np.concatenate(parts[:4])
    for one in found:
        assert np.array_equal(one.counts, found[0].counts)
        assert one.counts.sum() == len(x)
        assert (one.low, one.high) == (x.min(), x.max())
        assert np.array_equal(np.histogram(x.astype(np.float64), one.edges)[0], one.counts)


def test_outputs_spread_in_directions():
    model = view("(float[n,5] x) => (float y) { y = MatMul(x, w) }", w=normal(5, 4))
    tap = Tap(node(model, "MatMul"), 0, made=True)
    x = normal(500, 5) + 3
    found = collect(model, [Spread(tap)], [{"x": x[:100]}, {"x": x[100:]}])[Spread(tap)]
    y = x @ next(iter(find_weights(model))).array()
    expected = np.cov(y.T, bias=True)
    assert np.allclose(
        found.basis * found.variances @ found.basis.T, expected, rtol=1e-3, atol=1e-3
    )
    assert (np.diff(found.variances) <= 0).all()
    assert np.allclose(found.mean, y.mean(0), rtol=1e-4)


def test_numbers_that_are_none_are_refused():
    model = view("(float[n,4] x) => (float y) { y = MatMul(x, w) }", w=normal(4, 4))
    use = next(iter(find_weights(model))).uses[0]
    with pytest.raises(CalibrationError, match="not finite"):
        collect(model, [Moment(use)], [{"x": np.full((3, 4), np.nan, np.float32)}])
    with pytest.raises(CalibrationError, match="no samples"):
        collect(model, [Moment(use)], [])


# ------------------------------------------------------------------------------------ on disk


def test_answers_are_found_again(tmp_path, monkeypatch):
    model, uses = network()
    taps = [Tap(uses[0].node, 0), Tap(uses[3].node, 0, made=True)]
    requests = [Moment(uses[1]), Mean(uses[0]), Histogram(taps[0]), Spread(taps[1])]
    cache = tmp_path / "new" / "folder"
    first = collect(model, requests, feeds(4), cache=cache)
    assert len(list(cache.iterdir())) == 4
    again, other = network()
    moved = [Moment(other[1]), Mean(other[0])]
    moved += [Histogram(Tap(other[0].node, 0)), Spread(Tap(other[3].node, 0, made=True))]
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[collect.__module__], "stream", None)  # nothing may be run
        second = collect(again, moved, feeds(4), cache=cache)
    same(first[requests[0]], second[moved[0]])
    assert np.array_equal(first[requests[1]], second[moved[1]])
    assert np.array_equal(first[requests[2]].counts, second[moved[2]].counts)
    assert first[requests[2]].high == second[moved[2]].high
    assert np.array_equal(first[requests[3]].basis, second[moved[3]].basis)


def test_other_models_data_and_looks_are_collected_anew(tmp_path):
    model, uses = network()
    collect(model, [Moment(uses[0])], feeds(2), cache=tmp_path)
    changed = from_proto(parsed(NETWORK, **{**WEIGHTS, "w1": 2 * WEIGHTS["w1"]}))
    use = next(iter(find_weights(changed))).uses[0]
    collect(changed, [Moment(use)], feeds(2), cache=tmp_path)
    collect(model, [Moment(uses[0])], feeds(1, 1), cache=tmp_path)
    collect(model, [Moment(uses[0])], feeds(2), look=Look(windows=None), cache=tmp_path)
    before = CrossMoment(uses[0], changed, use)
    assert collect(model, [before], feeds(2), cache=tmp_path)[before].shape == (1, 27, 27)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_broken_cache_is_no_harm(tmp_path):
    model, uses = network()
    first = collect(model, [Moment(uses[0])], feeds(2), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    for broken in (b"", b"PK", file.read_bytes()[:-40]):
        file.write_bytes(broken)
        second = collect(model, [Moment(uses[0])], feeds(2), cache=tmp_path)
        same(first[Moment(uses[0])], second[Moment(uses[0])])
