"""Models run in pieces: the same outputs and errors as when they are run whole."""

import re
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from test_partition import HEAVY, LOOP, MODELS, SIDE, drawn_models, four, square

from onnx_compress import cli, compress
from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph import from_proto, load, to_bytes
from onnx_compress.ir.graph.partition import partition
from onnx_compress.ir.runtime import (
    Session,
    activations,
    executed,
    fits,
    memory,
    observe,
    open_session,
)
from onnx_compress.ir.runtime import pieces as pieces_module
from onnx_compress.ir.runtime.pieces import Pieces

from graphs import parsed, product, view

PIECE = 16  # memory is given as this many times what a piece may take


def feeds(proto: ModelProto, count: int = 3) -> list[dict[str, np.ndarray]]:
    """Samples, each of another number of rows."""
    rng = np.random.default_rng(1)
    stored = {tensor.name for tensor in proto.graph.initializer}
    width = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    found = []
    for at in range(count):
        every = {"t": np.array(at % 2 == 0)}
        every["x"] = rng.standard_normal((at % 4 + 1, width)).astype(np.float32)
        names = {info.name for info in proto.graph.input} - stored
        found.append({name: array for name, array in every.items() if name in names})
    return found


def in_pieces(proto: ModelProto, samples, limit: int = HEAVY, **options) -> list[list]:
    """Outputs of parts of `limit` bytes, loaded like any model."""

    def cut(model, _):
        return partition(model, limit)

    with mock.patch.object(pieces_module, "partition", cut):
        return list(Pieces(from_proto(proto), **options).run_all(samples))


def with_memory(size: int, proto: ModelProto, samples, **options) -> list[list]:
    with memory(size):
        return list(Pieces(from_proto(proto), **options).run_all(samples))


def whole(proto: ModelProto, samples, **options) -> list[list]:
    return list(Session(from_proto(proto), **options).run_all(samples))


def assert_equal(found: list[list], expected: list[list], tolerance: float = 0) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            if tolerance and a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("limit", [1, HEAVY, 2 * HEAVY])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_whole_model_bit_for_bit(name, limit):
    proto = MODELS[name]()
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    found = in_pieces(proto, samples, limit, optimize=False)
    # the runtime does not pack a weight that a caller may replace, and then sums otherwise
    assert_equal(found, expected, 1e-5 if "overridden" in name else 0)


@pytest.mark.parametrize("size", [1, PIECE * HEAVY])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_optimized_pieces_are_close(name, size):
    proto = MODELS[name]()
    samples = feeds(proto)
    assert_equal(with_memory(size, proto, samples), whole(proto, samples), tolerance=1e-4)


@settings(max_examples=50)
@given(drawn_models(), st.sampled_from([1, 256, 600]))
def test_any_graph_gives_in_pieces_what_it_gives_whole(proto, limit):
    samples = feeds(proto, 2)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, limit, optimize=False), expected)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["residuals", "branches", "several outputs of a node"])
def test_samples_keep_their_order_whatever_the_threads(name, threads):
    proto = MODELS[name]()
    samples = feeds(proto, 7)
    assert_equal(in_pieces(proto, samples, threads=threads), in_pieces(proto, samples))


def test_one_sample_gives_what_it_gives_among_others():
    proto = MODELS["residuals"]()
    samples = feeds(proto)
    with memory(PIECE * HEAVY):
        alone = [Pieces(from_proto(proto)).run(sample) for sample in samples]
    assert_equal(alone, in_pieces(proto, samples))


def test_no_samples_give_no_outputs():
    for run in (whole, in_pieces):
        assert run(MODELS["a chain"](), []) == []


def test_it_may_be_run_again():
    proto = MODELS["residuals"]()
    (sample,) = feeds(proto, 1)
    with memory(PIECE * HEAVY):
        session = Pieces(from_proto(proto))
        assert_equal([session.run(sample)], [session.run(sample)])


def test_large_activations_wait_in_the_scratch_file(monkeypatch):
    spilled = []
    monkeypatch.setattr(activations, "_SMALL", 64)

    class Counted(activations._Spilled):
        def __init__(self, blob, dtype, shape):
            super().__init__(blob, dtype, shape)
            spilled.append(self)

    monkeypatch.setattr(activations, "_Spilled", Counted)
    for name, threads in (("residuals", 1), ("several outputs of a node", 3)):
        proto = MODELS[name]()
        samples = feeds(proto, 5)
        found = in_pieces(proto, samples, optimize=False, threads=threads)
        assert_equal(found, whole(proto, samples, optimize=False))
    assert {(each.dtype, len(each.shape)) for each in spilled} == {(np.dtype("float32"), 2)}


# -------------------------------------------------------------------------- other kinds of values


def cast(element: int) -> str:
    """A value of this type that goes over a piece."""
    return (
        f"p = MatMul(x, a) t = Cast<to = {element}>(p) q = MatMul(p, b) r = MatMul(q, c) "
        "u = Cast<to = 1>(t) y = Add(r, u)"
    )


KINDS = {
    "strings": cast(TensorProto.STRING),
    "halves": cast(TensorProto.FLOAT16),
    "doubles": cast(TensorProto.DOUBLE),
    "bytes": cast(TensorProto.INT8),
    "booleans": "p = MatMul(x, a) t = Greater(p, k) q = MatMul(p, b) r = MatMul(q, c) "
    "y = Where(t, q, r)",
    "scalars": "p = MatMul(x, a) t = ReduceMax<keepdims = 0>(p) q = MatMul(p, b) y = Mul(q, t)",
    "no rows": "p = MatMul(x, a) e = Constant<value = int64[1] {0}>() t = Slice(p, e, e, e) "
    "q = MatMul(p, b) r = MatMul(q, c) y = Concat<axis = 0>(t, r)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_kind_go_from_piece_to_piece(kind):
    proto = four(KINDS[kind])
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected)


SPECIAL = {
    "a sequence": "p = MatMul(x, a) t = SplitToSequence<axis = 1>(p) q = MatMul(p, b) "
    "r = MatMul(q, c) u = ConcatFromSequence<axis = 1>(t) y = Add(r, u)",
    "bfloat16": cast(TensorProto.BFLOAT16),
}


def assert_works_or_is_named(proto: ModelProto, samples, name: str) -> None:
    try:
        found = in_pieces(proto, samples)
    except UnsupportedError as error:
        assert ("--memory" in error.hint, error.where) == (True, name)  # noqa: PT017
        return
    assert_equal(found, whole(proto, samples), tolerance=1e-5)


@pytest.mark.parametrize("kind", SPECIAL)
def test_values_that_cannot_go_from_piece_to_piece_work_or_are_named(kind):
    proto = four(SPECIAL[kind])
    assert_works_or_is_named(proto, feeds(proto), "t")


def test_sequences_given_to_a_model_work_or_are_named():
    proto = four(
        "p = MatMul(x, a) u = ConcatFromSequence<axis = 0>(s) q = MatMul(p, b) y = Add(q, u)"
    )
    proto.graph.input.append(helper.make_tensor_sequence_value_info("s", 1, None))
    x = np.ones((2, SIDE), np.float32)
    assert_works_or_is_named(proto, [{"x": x, "s": [x[:1], x[1:]]}], "s")


@pytest.mark.parametrize("dtype", [object, "U4"])
def test_strings_are_given(dtype):
    proto = four("t = Cast<to = 1>(s) p = MatMul(x, a) q = Mul(p, t) y = MatMul(q, b)",
                 inputs="float[N,32] x, string[1] s")  # fmt: skip
    sample = {**feeds(proto, 1)[0], "s": np.array(["1.5"], dtype)}
    expected = whole(proto, [sample], optimize=False)
    assert_equal(in_pieces(proto, [sample], optimize=False), expected)


def test_strings_of_constant_nodes_are_given_out():
    proto = four(
        's = Constant<value_strings = ["one", "two"]>() p = MatMul(x, a) y = MatMul(p, b)',
        "float[N,32] y, string[2] s",
    )
    samples = feeds(proto)
    assert_equal(in_pieces(proto, samples, optimize=False), whole(proto, samples, optimize=False))


RANDOM = {
    "an operator": ("r = RandomNormalLike(k)", ""),
    "a function": (
        "r = local.noise(k)",
        '<domain: "local", opset_import: ["" : 19]> noise (v) => (w) { w = RandomNormalLike(v) }',
    ),
    "Dropout": ("h = Constant<value = float {0.5}>() on = Constant<value = bool {1}>() "
                "r = Dropout(z, h, on)", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_drawn_once(kind):
    nodes, functions = RANDOM[kind]
    proto = parsed(
        f"""<ir_version: 8, opset_import: ["" : 19, "local" : 1]>
        g (float[N,32] x) => (float first, float last) {{
            {nodes} p = MatMul(x, a) first = Mul(p, r) q = MatMul(p, b) s = Sub(q, q)
            t = MatMul(s, c) e = Neg(k) f = Mul(t, e) u = Add(f, p) last = Mul(u, r) }}
        {functions}""",
        **{name: square(at) for at, name in enumerate("abc")},
        k=np.float32([0.5] * SIDE),
        z=np.ones(SIDE, np.float32),
    )
    for result in (proto.graph.output[0], proto.graph.output[1]):
        result.type.tensor_type.ClearField("shape")
    (first, last), = in_pieces(proto, feeds(proto, 1), optimize=False)  # fmt: skip
    np.testing.assert_array_equal(first, last)


# ----------------------------------------------------------------------------------------- feeds


def test_an_initializer_that_is_given_overrides_the_stored_one():
    proto = MODELS["weights that can be overridden"]()
    (sample,) = feeds(proto, 1)
    sample["c"] = square(50)
    expected = whole(proto, [sample], optimize=False)
    assert_equal(in_pieces(proto, [sample], optimize=False), expected, tolerance=1e-5)


def test_an_initializer_that_can_be_overridden_is_given_out():
    proto = with_output(MODELS["weights that can be overridden"](), "c")
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected, tolerance=1e-5)


def with_output(proto: ModelProto, name: str) -> ModelProto:
    proto.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    return proto


def test_an_input_is_given_out():
    proto = with_output(MODELS["a chain"](), "x")
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected)


X = np.ones((2, SIDE), np.float32)
WRONG = {
    "nothing": {},
    "another name": {"z": X},
    "one too many": {"x": X, "z": X},
    "doubles": {"x": X.astype(np.float64)},
    "integers": {"x": X.astype(np.int64)},
    "another width": {"x": np.ones((2, SIDE + 1), np.float32)},
    "another width that broadcasts": {"x": np.ones((2, 1), np.float32)},
    "another rank": {"x": np.ones((2, 2, SIDE), np.float32)},
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("start", ["p = MatMul(x, a)", "s = Relu(x) i = Neg(s) p = Add(i, l)"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_inputs_are_refused_as_by_a_session(kind, start, place):
    proto = four(f"{start} q = Relu(p) r = Neg(q) y = Add(r, l)")
    samples = [{"x": X}, {"x": X}]
    samples[place] = WRONG[kind]
    for run in (whole, in_pieces):
        with pytest.raises(InvalidError, match="does not run"):
            run(proto, samples)


@pytest.mark.parametrize(
    "kind", "float double float16 bfloat16 int8 uint8 int32 int64 bool string".split()
)
def test_inputs_and_outputs_are_described_as_by_a_session(kind):
    model = view(f"({kind}[N,2] x, {kind}[3] z, {kind} s) => ({kind}[N,2] y) {{ y = Identity(x) }}")
    ours, theirs = Pieces(model), Session(model)
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)


# ------------------------------------------------------------------------------------ what is run


def test_a_model_is_run_whole_as_long_as_it_fits(monkeypatch):
    model = from_proto(MODELS["a chain"]())
    with memory(4 * HEAVY + 8):
        assert fits(model)
        assert isinstance(open_session(model), Session)
    with memory(4 * HEAVY + 7):
        assert not fits(model)
        assert isinstance(open_session(model), Pieces)


def test_what_memory_was_given_is_forgotten_afterwards():
    model = from_proto(MODELS["a chain"]())
    with pytest.raises(KeyError), memory(1):
        raise KeyError
    assert fits(model)


def test_executed_names_the_nodes_of_all_pieces():
    proto = four("p = MatMul(x, a) q = Softmax(p) r = MatMul(q, b) y = Softmax(r)")
    for at, each in enumerate(proto.graph.node):
        each.name = f"node{at}"
    (sample,) = feeds(proto, 1)
    model = from_proto(proto)
    ran = executed(model, sample)
    assert sorted(op for op, _ in ran) == ["MatMul", "MatMul", "Softmax", "Softmax"]
    with memory(1):
        assert sorted(executed(model, sample)) == sorted(ran)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_observed_in_pieces_as_in_one(name):
    proto = MODELS[name]()
    (sample,) = feeds(proto, 1)
    model = from_proto(proto)
    nodes = [n for n in model.graph.nodes if n.op not in ("Loop", "Split", "TopK")]
    values = [*model.inputs(), *(n.output for n in nodes)]
    expected = observe(model, sample, values, ["Shape", "Size"])
    with memory(HEAVY):
        assert not fits(model)
        found = observe(model, sample, values, ["Shape", "Size"])
    assert list(found) == list(expected)
    assert_equal(list(found.values()), list(expected.values()))


def test_a_file_with_data_beside_it_is_run_in_pieces_and_loaded(tmp_path):
    proto = product()
    path = tmp_path / "m.onnx"
    onnx.save_model(product(), path, save_as_external_data=True, location="d", size_threshold=0)
    x = np.ones((2, 64), np.float32)
    expected = Session(from_proto(proto), optimize=False).run({"x": x})
    with memory(1):
        session = open_session(path, optimize=False)
        assert isinstance(session, Pieces)
        assert_equal([session.run({"x": x})], [expected])


def test_a_file_that_the_runtime_cannot_load_is_refused_though_it_is_large(tmp_path):
    proto = product()
    proto.graph.node[1].op_type = "NoSuchOperator"
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="d", size_threshold=0)
    with memory(1), pytest.raises(InvalidError, match="NoSuchOperator"):
        open_session(path)


# --------------------------------------------------------------------------------------- compress


def saved(folder, external: bool = False):
    proto = parsed(
        "(float[N,96] x) => (float[N,96] y) { p = MatMul(x, a) q = Relu(p) r = Gemm(q, b, c) "
        "s = Add(r, p) t = MatMul(s, d) y = Add(t, x) }",
        **{name: np.random.default_rng(at).standard_normal((96, 96)).astype(np.float32) / 10
           for at, name in enumerate("abd")},
        c=np.ones(96, np.float32),
    )  # fmt: skip
    path = folder / "in.onnx"
    onnx.save_model(proto, path, save_as_external_data=external, location="d", size_threshold=0)
    return path


DATA = {"x": np.random.default_rng(3).standard_normal((8, 96)).astype(np.float32)}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "passes", ["quant(bits=8)", "quant(bits=16)", "prune(sparsity=0.5),quant(bits=8)", "fold"]
)
def test_the_result_is_the_same_with_little_memory(tmp_path, passes, external):
    path = saved(tmp_path, external)
    out = {name: tmp_path / name for name in ("whole.onnx", "pieces.onnx")}
    large = compress(path, passes, DATA, out["whole.onnx"], target="avx512-vnni").report
    small = compress(
        path, passes, DATA, out["pieces.onnx"], target="avx512-vnni", memory=20_000
    ).report
    assert out["whole.onnx"].read_bytes() == out["pieces.onnx"].read_bytes()
    assert large.timing or large.unchanged
    assert small.timing is None
    assert not any("speed" in warning for warning in large.warnings)
    assert any("speed was not measured" in warning for warning in small.warnings)
    assert small.error == pytest.approx(large.error, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("passes", ["prune,quant", "quant"])
def test_settings_are_found_with_little_memory(tmp_path, passes):
    path = saved(tmp_path)
    result = compress(path, passes, DATA, tmp_path / "out.onnx", memory=1)
    assert result.report.bytes_after < result.report.bytes_before
    assert result.report.error <= result.report.max_error
    assert load(tmp_path / "out.onnx").opset()


def test_inputs_are_drawn_with_little_memory(tmp_path):
    path = saved(tmp_path)
    report = compress(path, "quant(bits=8)", out=tmp_path / "out.onnx", memory=1).report
    assert report.drawn
    assert report.bytes_after < report.bytes_before


def test_the_model_given_stays_as_it_is(tmp_path):
    model = load(saved(tmp_path))
    before = to_bytes(model)
    compress(model, "quant(bits=8)", DATA, memory=1)
    assert to_bytes(model) == before


# ------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(("size", "pieces"), [("64KB", True), ("1K", True), ("1GB", False),
                                              ("0.5g", False), ("1000000000", False)])  # fmt: skip
def test_the_command_takes_sizes(tmp_path, capsys, size, pieces):
    path, out = saved(tmp_path), tmp_path / "out.onnx"
    np.savez(tmp_path / "d.npz", **DATA)
    arguments = [str(path), str(out), "--passes", "quant(bits=8)", "--calib", tmp_path / "d.npz"]
    assert cli.main([*map(str, arguments), "--memory", size]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ("speed was not measured" in printed) == pieces
    assert out.exists()


@pytest.mark.parametrize("size", ["abc", "", "GB", "1 apple", "nan", "inf", "1e999", "5XB", "-1KB"])
def test_what_is_no_size_is_a_wrong_command(tmp_path, capsys, size):
    assert cli.main([str(saved(tmp_path)), str(tmp_path / "out.onnx"), "--memory", size]) == 2
    assert "--memory" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "0KB", "0.1"])
def test_no_memory_is_a_wrong_command(tmp_path, capsys, size):
    assert cli.main([str(saved(tmp_path)), str(tmp_path / "out.onnx"), "--memory", size]) == 2
    assert "--memory" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_loop_is_one_node_of_one_piece():
    model = from_proto(four(LOOP, "float[N,32] y, float[M,N,32] all"))
    with memory(1):
        ran = executed(model, feeds(four(LOOP, "float[N,32] y, float[M,N,32] all"), 1)[0])
    assert [op for op, _ in ran].count("Loop") == 1
