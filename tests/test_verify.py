"""Verification: the figures against a plain reference, and the inputs that are drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from onnx_compress.ir.errors import CalibrationError, VerificationError
from onnx_compress.ir.graph import Model, from_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.passes.samples import draw
from onnx_compress.passes.verify import OutputQuality, Quality, Reference, check
from onnx_compress.passes.verify.quality import Tally

from models_by_text import RNG, build, same_numbers_in_any_order  # noqa: F401


def figures(references: list[np.ndarray], actual: list[np.ndarray]) -> OutputQuality:
    tally = Tally("y")
    for r, y in zip(references, actual, strict=True):
        tally.add(r, y)
    return tally.result()


def expected_error(r: np.ndarray, y: np.ndarray, axis: int) -> float | None:
    """|y - r| / |r - mean of its channel|, written down as it is read. Samples on axis 0."""
    r, y = (np.moveaxis(a.astype("float64"), axis, -1).reshape(-1, a.shape[axis]) for a in (r, y))
    centred = r - r.mean(axis=0)
    lively = (centred**2).sum(axis=0) > 1e-9 * (r**2).sum(axis=0)
    if len(r) < 2 or not lively.any():
        return None
    noise = ((y - r)[:, lively] ** 2).sum()
    return float(np.sqrt(noise / (centred[:, lively] ** 2).sum()))


shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@given(shapes, st.integers(2, 5), st.integers(0, 2**32), st.floats(-4, 1), st.floats(-20, 20))
def test_the_error_is_that_of_the_worst_channel_axis(shape, count, seed, noise, offset):
    rng = np.random.default_rng(seed)
    r = rng.standard_normal((count, *shape)) * rng.uniform(0.1, 10, shape) + offset
    y = r + 10**noise * rng.standard_normal(r.shape)
    errors = [expected_error(r, y, axis) for axis in range(1, r.ndim)]
    known = [error for error in errors if error is not None]
    plain = float(np.linalg.norm(y - r) / np.linalg.norm(r))
    found = figures(list(r[:, None]), list(y[:, None]))
    assert found.error == pytest.approx(max(known, default=plain), rel=1e-4)
    assert found.sqnr_db == pytest.approx(-20 * np.log10(plain), abs=1e-6)
    assert found.plain_error == pytest.approx(plain)


def test_constant_channels_are_left_out():
    r = RNG.standard_normal((20, 3))
    r[:, 1] = 5.0
    y = r + 0.1 * RNG.standard_normal(r.shape)
    found = figures(list(r[:, None]), list(y[:, None])).error
    assert found == pytest.approx(expected_error(r[:, [0, 2]], y[:, [0, 2]], 1), rel=1e-6)


def test_outputs_of_one_number_are_not_centred():
    found = figures([np.float32([2.0])], [np.float32([2.2])])
    assert found.error == pytest.approx(0.1, rel=1e-4)


def test_a_large_offset_hides_nothing():
    r = RNG.standard_normal((16, 10))
    y = r + 0.3 * RNG.standard_normal(r.shape)
    near, far = (figures(list((r + c)[:, None]), list((y + c)[:, None])) for c in (0, 1000))
    assert far.error == pytest.approx(near.error, rel=1e-3)
    assert far.sqnr_db > near.sqnr_db + 40


def test_small_channels_beside_large_ones_count():
    """Boxes of hundreds beside scores below one: a ruined score must show."""
    r = np.concatenate([RNG.uniform(0, 600, (20, 1, 4, 9)), RNG.uniform(0, 1, (20, 1, 2, 9))], 2)
    y = r.copy()
    y[:, :, 4:] = 0.5
    y[:, :, :4] += RNG.standard_normal((20, 1, 4, 9))
    assert figures(list(r), list(y)).sqnr_db > 40
    assert figures(list(r), list(y)).error > 1e-3


def test_equal_outputs_have_no_error():
    r = [RNG.standard_normal((1, 4)).astype("float32") for _ in range(3)]
    found = figures(r, [a.copy() for a in r])
    assert found.error == 0
    assert found.sqnr_db > 100


def test_outputs_of_zeros_have_finite_figures():
    found = figures([np.zeros((1, 4))], [np.full((1, 4), 1e-3)])
    assert found.error > 1
    assert np.isfinite(found.error)
    assert np.isfinite(found.sqnr_db)


@given(st.integers(0, 20), st.integers(20, 40), st.sampled_from(["int64", "uint8", "bool"]))
def test_outputs_that_are_no_floats_count_by_disagreement(differing, size, kind):
    r = np.zeros((1, size), kind)
    y = r.copy()
    y[0, :differing] = 1
    found = figures([r, r], [y, r])
    assert found.error == pytest.approx(differing / (2 * size))
    assert found.sqnr_db is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_where_there_was_one_is_infinitely_wrong(bad):
    r = RNG.standard_normal((1, 4))
    y = r.copy()
    y[0, 2] = bad
    assert figures([r], [y]).error == np.inf
    assert figures([y], [r]).error == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_where_there_was_none_is_right(bad):
    r = RNG.standard_normal((6, 1, 4))
    r[2, 0, 2] = bad
    assert figures(list(r), list(r.copy())).error == 0
    y = r + 0.1
    assert 0 < figures(list(r), list(y)).error < 1


def test_infinity_of_the_other_sign_is_wrong():
    assert figures([np.array([np.inf, 1])], [np.array([-np.inf, 1])]).error == np.inf


def test_another_shape_is_infinitely_wrong():
    r = RNG.standard_normal((1, 4))
    assert figures([r], [r[:, :3]]).error == np.inf


def test_lengths_may_differ_between_samples():
    r = [RNG.standard_normal((1, length, 8)) for length in (3, 5, 9)]
    y = [a + 0.1 * RNG.standard_normal(a.shape) for a in r]
    pooled = expected_error(np.concatenate(r, 1)[0][:, None], np.concatenate(y, 1)[0][:, None], 2)
    assert figures(r, y).error == pytest.approx(pooled, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_error_does_not_depend_on_the_scale(scale):
    rng = np.random.default_rng(3)
    r = rng.standard_normal((8, 1, 5))
    y = r + 0.2 * rng.standard_normal(r.shape)
    one = figures(list(r), list(y))
    other = figures(list(r * scale), list(y * scale))
    assert other.error == pytest.approx(one.error)
    assert other.sqnr_db == pytest.approx(one.sqnr_db)


@given(st.lists(st.tuples(st.floats(0, 10), st.none() | st.floats(-50, 150)), min_size=1))
def test_the_worst_output_counts(pairs):
    quality = Quality(tuple(OutputQuality("y", error, db) for error, db in pairs))
    assert quality.error == max(error for error, _ in pairs)
    known = [db for _, db in pairs if db is not None]
    if known:
        assert quality.sqnr_db == min(known)


# ---------------------------------------------------------------------------------- reference


def scaled(factor: float, extra: str = "") -> Model:
    return from_proto(
        build(
            f"g (float[N,4] x) => (float[N,4] y) {{ y = Mul (x, k) {extra} }}",
            k=np.float32([factor]),
        )
    )


def test_a_model_is_judged_over_all_samples_together():
    feeds = [{"x": RNG.standard_normal((2, 4)).astype("float32")} for _ in range(5)]
    reference = Reference(Session(scaled(2.0)), feeds)
    quality = reference.judge(scaled(2.2))
    r = np.concatenate([2 * feed["x"] for feed in feeds])
    assert quality.error == pytest.approx(expected_error(r, 1.1 * r, 1), rel=1e-4)
    assert quality.sqnr_db == pytest.approx(20, abs=1e-3)
    assert reference.error(quality) == quality.error
    assert reference.judge(scaled(2.0)).error == 0


def test_errors_on_drawn_samples_are_not_centred():
    feeds = [{"x": np.float32([[10, 11, 12, 13]])}, {"x": np.float32([[10, 11, 12, 13.1]])}]
    reference = Reference(Session(scaled(2.0)), feeds, drawn=True)
    quality = reference.judge(scaled(2.2))
    assert reference.error(quality) == pytest.approx(0.1, rel=1e-3)
    assert quality.error > 1


def test_samples_that_the_model_refuses_are_named():
    feeds = [{"x": np.zeros((1, 4), "float32")}, {"x": np.zeros((1, 5, 5), "float32")}]
    with pytest.raises(CalibrationError) as caught:
        Reference(Session(scaled(2.0)), feeds)
    assert "sample 1" in str(caught.value)


def checked(model: Model) -> Quality:
    original = scaled(2.0)
    feeds = [{"x": np.ones((1, 4), "float32")}]
    return check(model, original.interface(), Reference(Session(original), feeds))


def test_a_sound_model_passes_the_check():
    assert checked(scaled(2.0)).error == 0


def renamed_output() -> Model:
    return from_proto(
        build("g (float[N,4] x) => (float[N,4] z) { z = Mul (x, k) }", k=np.float32([2]))
    )


def another_type() -> Model:
    return from_proto(build("g (float[N,4] x) => (double[N,4] y) { y = Cast <to=11> (x) }"))


def another_shape() -> Model:
    return from_proto(build("g (float[M,4] x) => (float[M,4] y) { y = Neg (x) }"))


def unknown_operator() -> Model:
    return from_proto(build("g (float[N,4] x) => (float[N,4] y) { y = Nonsense (x) }"))


def fails_at_run_time() -> Model:
    return from_proto(
        build("g (float[N,4] x) => (float[N,4] y) { y = Reshape (x, s) }", s=np.int64([7, 4]))
    )


def broken_use_list() -> Model:
    model = scaled(2.0)
    model.graph.inputs[0][0].uses.clear()
    return model


@pytest.mark.parametrize(
    "broken",
    [
        renamed_output,
        another_type,
        another_shape,
        unknown_operator,
        fails_at_run_time,
        broken_use_list,
    ],
)
def test_a_broken_model_does_not_pass_the_check(broken):
    with pytest.raises(VerificationError) as caught:
        checked(broken())
    assert str(caught.value)


# -------------------------------------------------------------------------------- drawn inputs


def drawn(proto: ModelProto, count: int = 3, seed: int = 0) -> list[dict[str, np.ndarray]]:
    model = from_proto(proto)
    return draw(model, Session(model), count, seed)


@pytest.mark.parametrize(
    "lines",
    [
        "y = Gather (E, i)",
        "c = Cast <to=6> (i)  y = Gather (E, c)",
        "r = Reshape (i, flat)  u = Unsqueeze (r, zero)  y = Gather (E, u)",
        "y = Gather (E, i)  z = Gather (F, i)",
        "t = Transpose <perm=[1,0]> (E)  k = Identity (i)  y = Gather <axis=0> (E, k)",
        "t = Identity (E)  y = Gather (t, i)",
        "t = Transpose <perm=[1,0]> (E)  y = Gather <axis=1> (t, i)",
    ],
)
@settings(max_examples=5)
@given(rows=st.integers(1, 12))
def test_indices_keep_within_their_table(lines, rows):
    proto = build(
        f"g (int64[N,50] i) => (float y) {{ {lines.replace('y =', 'h =', 1)}  "
        "y = ReduceSum <keepdims=0> (h) }",
        E=np.ones((rows, 3), "float32"),
        F=np.ones((max(rows - 1, 1), 3), "float32"),
        flat=np.int64([-1]),
        zero=np.int64([0]),
    )
    top = max(rows - 1, 1) if "F" in lines else rows
    for feed in drawn(proto):
        assert feed["i"].min() >= 0
        assert feed["i"].max() < top
        if top > 3:
            assert len(np.unique(feed["i"])) > 1


def test_masks_are_one():
    proto = build(
        "g (float[N,L] x, int64[N,L] attention_mask, bool[N,L] b) => (float[N,L] y) "
        "{ m = Cast <to=1> (attention_mask)  p = Mul (x, m)  y = Where (b, p, x) }"
    )
    for feed in drawn(proto):
        assert (feed["attention_mask"] == 1).all()
        assert feed["b"].all()
        assert feed["x"].shape == feed["attention_mask"].shape == feed["b"].shape


@pytest.mark.parametrize("kind", ["float", "double", "float16", "uint8", "int32", "bool"])
def test_drawn_inputs_have_the_type_of_the_input(kind):
    proto = build(f"g ({kind}[2,3] x) => ({kind}[2,3] y) {{ y = Identity (x) }}")
    for feed in drawn(proto):
        assert feed["x"].dtype == Session(from_proto(proto)).inputs[0].dtype
        assert feed["x"].shape == (2, 3)


def test_equal_seeds_draw_equal_inputs_and_others_other_ones():
    proto = build("g (float[N,8] x) => (float[N,8] y) { y = Neg (x) }")
    first, same, other = drawn(proto), drawn(proto), drawn(proto, seed=1)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0]["x"], other[0]["x"])
    assert not np.array_equal(first[0]["x"], first[1]["x"])


def test_open_sizes_are_tried_until_the_model_runs():
    proto = build(
        "g (float[N,C,H,W] x) => (float[?,?,?,?] y) { y = Conv (x, K) }",
        K=np.ones((2, 3, 5, 5), "float32"),
    )
    assert drawn(proto)[0]["x"].shape[1] == 3


def test_a_model_that_accepts_nothing_drawn_asks_for_data():
    proto = build(
        "g (float[N,L] x) => (float[?,?] y) { y = Reshape (x, s) }", s=np.int64([12345, 7])
    )
    with pytest.raises(CalibrationError) as caught:
        drawn(proto)
    assert "--calib" in caught.value.hint


def test_text_inputs_ask_for_data():
    proto = build("g (string[N] x) => (string[N] y) { y = Identity (x) }")
    with pytest.raises(CalibrationError):
        drawn(proto)
