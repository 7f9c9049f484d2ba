"""What is between a weight and its operators, and several of those."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_compress.ir.weights import find_weights

from graphs import array, only, view

# ------------------------------------------------------------------------------------- paths


@st.composite
def paths(draw):
    """Steps from a stored tensor to an operand of rank 2 or more: (text, stored array)."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    stored = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    now, lines = stored, []
    for at in range(draw(st.integers(0, 5))):
        kinds = ["Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"]
        kind = draw(st.sampled_from(kinds))
        read, made = f"v{at}" if lines else "w", f"v{at + 1}"
        read = f"v{len(lines)}" if lines else "w"
        made = f"v{len(lines) + 1}"
        if kind == "Transpose":
            perm = draw(st.permutations(range(now.ndim)))
            if draw(st.booleans()):
                perm, given_perm = list(reversed(range(now.ndim))), ""
            else:
                given_perm = f"<perm = {list(perm)}>"
            if not perm:
                continue
            now = now.transpose(perm)
            lines.append(f"{made} = Transpose{given_perm}({read})")
        elif kind == "Reshape":
            keep = draw(st.integers(0, min(now.ndim, 2)))
            lines.append(
                f"s{at} = Constant<value_ints = {[0] * keep + [-1]}>()  "
                f"{made} = Reshape({read}, s{at})"
            )
            now = now.reshape(*now.shape[:keep], -1)
        elif kind == "Unsqueeze":
            axis = draw(st.integers(-now.ndim - 1, now.ndim))
            lines.append(
                f"s{at} = Constant<value_ints = [{axis}]>()  {made} = Unsqueeze({read}, s{at})"
            )
            now = np.expand_dims(now, axis)
        elif kind == "Squeeze":
            lines.append(f"{made} = Squeeze({read})")
            now = now.squeeze()
        elif kind == "Flatten":
            axis = draw(st.integers(-now.ndim, now.ndim))
            lines.append(f"{made} = Flatten<axis = {axis}>({read})")
            at_axis = axis % now.ndim if axis < 0 else axis
            now = now.reshape(int(np.prod(now.shape[:at_axis])), -1)
        else:
            lines.append(f"{made} = {kind}{'<to = 1>' if kind == 'Cast' else ''}({read})")
    return lines, stored, now


@given(paths())
def test_the_way_from_the_stored_tensor_to_the_operand_is_followed(path):
    lines, stored, operand = path
    last = f"v{len(lines)}" if lines else "w"
    body = f"(float x) => (float y) {{ {' '.join(lines)} y = MatMul(x, {last}) }}"
    found = find_weights(view(body, w=stored)).weights
    if operand.ndim < 2:
        assert not found
        return
    (weight,) = found
    (use,) = weight.uses
    assert len(use.path.steps) == len(lines)
    assert use.path.shape == operand.shape
    np.testing.assert_array_equal(use.path.apply(stored), operand)
    assert weight.sole_use
    # a scale for each place along the stored axes never differs within a row of the operand
    wide = [d if a in weight.channel_axes else 1 for a, d in enumerate(stored.shape)]
    scale = np.broadcast_to(np.arange(np.prod(wide)).reshape(wide), stored.shape)
    matrix = use.matrix(np.ascontiguousarray(scale))
    assert (matrix == matrix[:, :, :1]).all()


def test_channels_are_followed_back_through_a_transpose_and_a_reshape():
    model = view("""(float[2,4] x, float[1,3,5,5] z) => (float y, float u) {
        t = Transpose(w)  y = MatMul(x, t)
        s = Constant<value_ints = [6, 3, 2, 2]>()  k = Reshape(v, s)  u = Conv(z, k)
    }""", w=array(6, 4), v=array(6, 12))  # fmt: skip
    w, v = find_weights(model)
    assert w.channel_axes == (0,)
    assert v.channel_axes == (0,)
    assert w.uses[0].path.moves


def test_squeeze_by_axes_computed_at_run_time_is_not_guessed():
    model = view("""(float x, int64[1] axes) => (float y) {
        s = Squeeze(w, axes)  y = MatMul(x, s) }""", w=array(1, 1, 4, 5))  # fmt: skip
    assert not find_weights(model).weights


def test_reshape_and_unsqueeze_at_run_time_are_told():
    for op in ("Reshape", "Unsqueeze"):
        model = view(
            f"(float x, int64[2] s) => (float y) {{ k = {op}(w, s)  y = MatMul(x, k) }}",
            w=array(4, 5),
        )
        (skipped,) = find_weights(model).skipped
        assert "at run time" in skipped.reason


# ------------------------------------------------------------------------------- several uses


def test_a_tied_weight_is_one_weight_with_two_uses():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t)
    }""", w=array(7, 4))  # fmt: skip
    weight = only(model)
    assert [(use.gathered, use.multiplied) for use in weight.uses] == [(True, False), (False, True)]
    assert weight.channel_axes == (0,)
    assert not weight.sole_use
    assert weight.others == []


def test_uses_that_have_no_axis_in_common_share_one_scale():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  y = MatMul(e, w) }""", w=array(4, 4))  # fmt: skip
    assert only(model).channel_axes == ()


def test_other_readers_of_the_tensor_and_of_the_steps_are_told():
    model = view("""(float[2,4] x) => (float y, float a, float b) {
        t = Transpose(w)  y = MatMul(x, t)  a = Abs(w)  b = Neg(t) }""", w=array(6, 4))  # fmt: skip
    assert sorted(node.op for node in only(model).others) == ["Abs", "Neg"]
    assert not only(model).sole_use


def test_a_node_that_reads_its_weight_in_another_slot_too_is_no_sole_use():
    model = view("(float[4,4] x) => (float y) { y = Gemm(x, w, w) }", w=array(4, 4))
    assert not only(model).sole_use


def test_both_operands_of_one_product_may_be_the_same_weight():
    model = view("(float[4,4] x) => (float y) { a = MatMul(w, w)  y = Add(a, x) }", w=array(4, 4))
    assert [use.slot for use in only(model).uses] == [0, 1]
