"""fold: each rule, what it refuses and why, and that the outputs stay what they were."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress import compress
from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold, constants


@contextlib.contextmanager
def counted_evaluations() -> Iterator[list[str]]:
    """The operators that are computed meanwhile."""
    seen: list[str] = []
    real = constants.evaluate

    def counting(model, node, inputs):
        seen.append(node.op)
        return real(model, node, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "evaluate", counting)
        yield seen


RNG = np.random.default_rng(7)
SEEDED = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = SEEDED


def draw(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def build(body: str, opset: int = 17, ir: int = 8, **weights: np.ndarray) -> ModelProto:
    """A model from text, with these arrays for initializers."""
    model = parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def fold(proto: ModelProto) -> tuple[ModelProto, Report]:
    before = proto.SerializeToString()
    model = from_proto(proto)
    report = Fold().run(model, Context(targets.load("avx2"), {}))
    invariants.check(model)
    assert proto.SerializeToString() == before
    return to_proto(model), report


def run(proto: ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, feed)


def ops(proto: ModelProto) -> list[str]:
    return sorted(node.op_type for node in proto.graph.node if node.op_type != "Constant")


def assert_same(before: ModelProto, after: ModelProto, feed: dict[str, np.ndarray]) -> None:
    """Same interface, same outputs, loads, and nothing is left to fold."""
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    onnx.checker.check_model(after, full_check=True)
    for expected, actual in zip(run(before, feed), run(after, feed), strict=True):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        if np.issubdtype(expected.dtype, np.floating):
            distance = np.linalg.norm(actual - expected)
            assert distance <= 1e-5 * np.linalg.norm(expected)
        else:
            assert np.array_equal(actual, expected)
    again, report = fold(after)
    assert not report.modified
    assert again.SerializeToString(deterministic=True) == after.SerializeToString(
        deterministic=True
    )


def norm(channels: int, shift: bool = True) -> dict[str, np.ndarray]:
    """Numbers of a BatchNormalization; without `shift` it only scales."""
    gamma, var = np.abs(draw(channels)) + 0.5, np.abs(draw(channels)) + 0.1
    beta, mean = (draw(channels), draw(channels)) if shift else (np.zeros(channels),) * 2
    return {
        "g": gamma.astype("float32"),
        "b": np.asarray(beta, "float32"),
        "m": np.asarray(mean, "float32"),
        "v": var.astype("float32"),
    }


# ------------------------------------------------------------------------- BatchNormalization

FOLDED = {
    "conv": ("h = Conv <pads=[1,1,1,1]> (x, W)", [2, 3, 6, 6], (4, 3, 3, 3), 4),
    "conv bias": ("h = Conv (x, W, c)", [2, 3, 6, 6], (4, 3, 3, 3), 4),
    "conv groups": ("h = Conv <group=2> (x, W, c)", [2, 4, 5, 5], (6, 2, 3, 3), 6),
    "conv depthwise": ("h = Conv <group=4, strides=[2,2]> (x, W)", [1, 4, 7, 7], (4, 1, 3, 3), 4),
    "conv 1d": ("h = Conv (x, W, c)", [2, 3, 9], (4, 3, 3), 4),
    "conv 3d": ("h = Conv (x, W, c)", [1, 2, 4, 4, 4], (3, 2, 2, 2, 2), 3),
    "transposed": ("h = ConvTranspose <strides=[2,2]> (x, W, c)", [1, 4, 5, 5], (4, 6, 3, 3), 6),
    "transposed groups": ("h = ConvTranspose <group=2> (x, W)", [1, 4, 5, 5], (4, 3, 3, 3), 6),
    "gemm": ("h = Gemm (x, W)", [5, 3], (3, 4), 4),
    "gemm bias": ("h = Gemm (x, W, c)", [5, 3], (3, 4), 4),
    "gemm turned": ("h = Gemm <transB=1> (x, W, c)", [5, 3], (4, 3), 4),
    "gemm factors": ("h = Gemm <alpha=0.5, beta=3.0> (x, W, c)", [5, 3], (3, 4), 4),
    "gemm turned input": ("h = Gemm <transA=1> (x, W, c)", [3, 5], (3, 4), 4),
    "matmul": ("h = MatMul (x, W)", [5, 3], (3, 4), 4),
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_normalization_goes_into_what_is_before_it(name):
    line, shape, weight, channels = FOLDED[name]
    extra = {"c": draw(channels)} if ", c)" in line else {}
    rank = ",".join(["N", *map(str, shape[1:])]) if "transA" not in line else "3,5"
    out = ",".join("?" for _ in shape)
    proto = build(
        f"g (float[{rank}] x) => (float[{out}] y) {{ {line}  y = BatchNormalization (h,g,b,m,v) }}",
        W=draw(*weight),
        **extra,
        **norm(channels),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" not in ops(folded)
    assert len(ops(folded)) == (2 if name == "matmul" else 1)
    assert report.modified
    assert_same(proto, folded, {"x": draw(*shape)})


@pytest.mark.parametrize(
    ("line", "shape", "weight", "shift"),
    [
        ("y = Conv (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv (n, W, c)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv <group=2> (n, W, c)", [2, 4, 6, 6], (4, 2, 3, 3), True),
        ("y = Conv <auto_pad='VALID'> (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv <pads=[1,1,1,1]> (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), False),
        ("y = Gemm (n, W, c)", [5, 3], (3, 4), True),
        ("y = Gemm <transB=1> (n, W)", [5, 3], (4, 3), True),
        ("y = Gemm <alpha=0.5, beta=2.0, transB=1> (n, W, c)", [5, 3], (4, 3), True),
        ("y = MatMul (n, W)", [5, 3], (3, 4), True),
    ],
)
def test_a_normalization_goes_into_what_follows_it(line, shape, weight, shift):
    channels = shape[1]
    proto = build(
        f"g (float[{','.join(map(str, shape))}] x) => (float[{','.join('?' * len(shape))}] y) "
        f"{{ n = BatchNormalization (x,g,b,m,v)  {line.replace(chr(39), chr(34))} }}",
        W=draw(*weight),
        c=draw(4),
        **norm(channels, shift),
    )
    folded, _ = fold(proto)
    assert "BatchNormalization" not in ops(folded)
    assert_same(proto, folded, {"x": draw(*shape)})


REFUSED = {
    "padding": ("n = {BN} (x,g,b,m,v)  y = Conv <pads=[1,1,1,1]> (n, W)", "pads with zeros"),
    "automatic padding": (
        'n = {BN} (x,g,b,m,v)  y = Conv <auto_pad="SAME_UPPER"> (n, W)',
        "pads with zeros",
    ),
    "shared weight": (
        "h = Conv (x, W)  k = Conv (x, W)  n = {BN} (h,g,b,m,v)  y = Add (n, k)",
        "shared",
    ),
    "read twice": ("h = Conv (x, W)  n = {BN} (h,g,b,m,v)  y = Add (n, h)", "2 uses"),
    "read twice after": (
        "n = {BN} (x,g,b,m,v)  h = Conv (n, W)  r = Relu (n)  k = Conv (r, V)  y = Add (h, k)",
        "2 uses",
    ),
    "computed weight": ("U = Mul (W, s)  h = Conv (x, U)  y = {BN} (h,g,b,m,v)", "not constant"),
    "computed bias": ("h = Conv (x, W, s4)  y = {BN} (h,g,b,m,v)", "bias"),
    "computed scale": ("h = Conv (x, W)  y = {BN} (h,s4,b,m,v)", "not constant"),
    "training": ("h = Conv (x, W)  y, p, q = {BN} <training_mode=1> (h,g,b,m,v)", "training"),
    "no neighbour": ("h = Relu (x)  y = {BN} (h,g,b,m,v)", "Relu"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_normalization_is_left_alone_with_a_reason(name):
    lines, reason = REFUSED[name]
    proto = build(
        "g (float[2,4,6,6] x, float[1] s, float[4] s4) => (float[?,?,?,?] y) "
        f"{{ {lines.replace('{BN}', 'BatchNormalization')} }}",
        W=draw(4, 4, 3, 3),
        V=draw(4, 4, 3, 3),
        **norm(4),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any(reason in entry.text for entry in report.skipped)
    feed = {"x": draw(2, 4, 6, 6), "s": draw(1), "s4": np.abs(draw(4))}
    assert_same(proto, folded, feed)


def test_a_convolution_that_is_given_out_keeps_its_output():
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] h, float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(4, 4, 3, 3),
        **norm(4),
    )
    folded, report = fold(proto)
    assert ops(folded) == ["BatchNormalization", "Conv"]
    assert any("given out" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(1, 4, 6, 6)})


def test_a_product_of_more_than_matrices_is_refused():
    proto = build(
        "g (float[2,5,3] x) => (float[?,?,?] y) "
        "{ h = MatMul (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(3, 4),
        **norm(5),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("matrices" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(2, 5, 3)})


def test_a_bias_for_each_row_is_refused():
    proto = build(
        "g (float[5,3] x) => (float[?,?] y) { h = Gemm (x, W, c)  y = BatchNormalization "
        "(h,g,b,m,v) }",
        W=draw(3, 4),
        c=draw(5, 1),
        **norm(4),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("bias" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(5, 3)})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 4), (4,)])
def test_biases_of_any_shape_that_is_one_number_a_channel_are_folded(shape):
    proto = build(
        "g (float[5,3] x) => (float[?,?] y) "
        "{ h = Gemm <beta=2.0> (x, W, c)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(3, 4),
        c=np.asarray(draw(*shape), "float32"),
        **norm(4),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Gemm"]
    assert_same(proto, folded, {"x": draw(5, 3)})


def test_numbers_that_leave_the_range_of_the_type_are_refused():
    numbers = norm(4) | {"v": np.full(4, 1e-12, "float32"), "g": np.full(4, 1e38, "float32")}
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(4, 4, 3, 3),
        **numbers,
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("range" in entry.text for entry in report.skipped)


def test_normalization_of_every_place_by_itself_does_no_harm():
    numbers = {name: np.abs(draw(4, 4, 4)) for name in "gbmv"}
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization <spatial=0> (h,g,b,m,v) }",
        opset=8,
        W=draw(4, 4, 3, 3),
        **numbers,
    )
    folded, _ = fold(proto)
    assert "BatchNormalization" in ops(folded)


def test_half_precision_models_pass_their_own_verification():
    weights = {name: array.astype("float16") for name, array in norm(8).items()}
    proto = build(
        "g (float16[2,8,9,9] x) => (float16[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(8, 8, 3, 3, dtype="float16"),
        **weights,
    )
    result = compress(proto, "fold")
    assert result.report.quality.sqnr_db > 40


@settings(max_examples=30)
@given(st.data())
def test_convolutions_of_any_attributes_fold_exactly(data):
    groups = data.draw(st.sampled_from([1, 2, 3]))
    inputs, outputs = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kernel = data.draw(st.integers(1, 3))
    stride = data.draw(st.integers(1, 2))
    pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    epsilon = data.draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    op = data.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    before = data.draw(st.booleans())
    shape = (inputs, outputs // groups) if op == "ConvTranspose" else (outputs, inputs // groups)
    attributes = f"group={groups}, strides=[{stride},{stride}], pads={pads}"
    convolution = f"{op} <{attributes}> ({'n' if before else 'x'}, W, c)"
    norms = f"BatchNormalization <epsilon={epsilon}> ({'x' if before else 'h'}, g, b, m, v)"
    lines = f"n = {norms} y = {convolution}" if before else f"h = {convolution} y = {norms}"
    proto = build(
        f"g (float[1,{inputs},7,7] x) => (float[?,?,?,?] y) {{ {lines} }}",
        W=draw(*shape, kernel, kernel),
        c=draw(outputs),
        **norm(inputs if before else outputs),
    )
    folded, _ = fold(proto)
    if not before:
        assert ops(folded) == [op]
    assert_same(proto, folded, {"x": draw(1, inputs, 7, 7)})


# ------------------------------------------------------------------------ constant expressions


def test_arithmetic_of_constants_becomes_its_result():
    proto = build(
        "g (float[N,2] x) => (float[N,2] y) { p = Mul (c3, c4)  q = Add (c2, p)  y = Add (x, q) }",
        c2=np.float32([2]),
        c3=np.float32([3]),
        c4=np.float32([4]),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Add"]
    assert [numpy_helper.to_array(t).tolist() for t in folded.graph.initializer] == [[14.0]]
    assert_same(proto, folded, {"x": draw(3, 2)})


def test_constant_nodes_count_as_constants():
    proto = build(
        "g (float[N,2] x) => (float[N,2] y) "
        "{ a = Constant <value_float=3.0> ()  b = Constant <value = float[1] {4.0}> ()"
        "  q = Mul (a, b)  y = Add (x, q) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Add"]
    assert_same(proto, folded, {"x": draw(3, 2)})


def test_a_fixed_shape_is_a_constant_and_an_open_one_is_not():
    lines = "s = Shape (x)  t = Slice (s, zero, two)  y = Reshape (z, t)"
    numbers = {"zero": np.int64([0]), "two": np.int64([2])}
    fixed = build(f"g (float[3,4,5] x, float[12] z) => (float[?,?] y) {{ {lines} }}", **numbers)
    free = build(f"g (float[N,4,5] x, float[12] z) => (float[?,?] y) {{ {lines} }}", **numbers)
    feed = {"x": draw(3, 4, 5), "z": draw(12)}
    assert ops(fold(fixed)[0]) == ["Reshape"]
    assert ops(fold(free)[0]) == ["Reshape", "Shape", "Slice"]
    assert_same(fixed, fold(fixed)[0], feed)
    assert_same(free, fold(free)[0], feed)


@pytest.mark.parametrize("attributes", ["start=1", "end=-1", "start=-2, end=5", "start=1, end=1"])
def test_part_of_a_shape_is_the_right_part(attributes):
    proto = build(
        f"g (float[3,4,5] x) => (int64[?] y) {{ s = Shape <{attributes}> (x)  y = Add (s, k) }}",
        k=np.int64([10]),
    )
    folded, _ = fold(proto)
    assert "Shape" not in ops(folded)
    assert_same(proto, folded, {"x": draw(3, 4, 5)})


BOMBS = {
    "ConstantOfShape": "w = ConstantOfShape (huge)",
    "Expand": "w = Expand (one, huge)",
    "Tile": "w = Tile (one2, huge)",
    "Range": "w = Range (zero, billion, step)",
    "Range of small steps": "w = Range (zerof, onef, tiny)",
    "Pad": "w = Pad (one, pads)",
    "Add": "w = Add (column, row)",
    "Where": "q = Equal (column, row)  w = Where (q, column, row)",
    "Gather": "w = Gather (row, picks, axis)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_stays_an_expression(name):
    line = BOMBS[name].replace("(row, picks, axis)", "(row, picks)")
    proto = build(
        f"g (int64[1] i) => (int64[?] y) {{ {line}  s = Shape (w)  y = Mul (s, i) }}",
        huge=np.int64([40_000, 40_000]),
        one=np.float32([1]),
        one2=np.float32([[1]]),
        zero=np.int64(0),
        billion=np.int64(10**9),
        step=np.int64(1),
        zerof=np.float32(0),
        onef=np.float32(1),
        tiny=np.float32(1e-9),
        pads=np.int64([0, 10**9]),
        column=draw(20_000, 1),
        row=draw(1, 20_000),
        picks=np.zeros(20_000, "int64"),
        k=draw(16),
    )
    size = proto.ByteSize()
    folded, _ = fold(proto)
    assert folded.ByteSize() <= size


HUNGRY = {
    "doubling": " ".join(
        ["w0 = Concat <axis=0> (k, k)"]
        + [f"w{i + 1} = Concat <axis=0> (w{i}, w{i})" for i in range(17)]
        + ["s = Shape (w17)"]
    ),
    "expanded and cut": "w = Expand (one, huge)  s = Slice (w, zero, some)",
    "filled and cut": "w = ConstantOfShape (huge)  s = Slice (w, zero, some)",
}


@pytest.mark.parametrize("name", HUNGRY)
def test_small_files_take_little_memory(name):
    """In a process of its own, whose peak can be read."""
    pytest.importorskip("resource")
    kind = "int64[?]" if name == "doubling" else "float[?,?]"
    proto = build(
        f"g ({kind} i) => ({kind} y) {{ {HUNGRY[name]}  y = Mul (s, i) }}",
        k=draw(16),
        one=np.float32([[1]]),
        huge=np.int64([12_000, 12_000]),
        zero=np.int64([0]),
        some=np.int64([2]),
    )
    code = (
        "import resource, sys; from onnx import ModelProto;"
        "from onnx_compress.ir.graph import from_proto;"
        "from onnx_compress.passes.clean.constants import fold_constants;"
        "model = from_proto(ModelProto.FromString(sys.stdin.buffer.read()));"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); fold_constants(model); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=proto.SerializeToString(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 400_000  # kB


def test_a_long_range_is_not_built():
    proto = build(
        "g (int64[2] i) => (int64[2] y) "
        "{ w = Range (start, stop, step)  s = Slice (w, zero, two)  y = Add (s, i) }",
        start=np.int64(0),
        stop=np.int64(60_000_000),
        step=np.int64(1),
        zero=np.int64([0]),
        two=np.int64([2]),
    )
    with counted_evaluations() as seen:
        fold(proto)
    assert seen == []  # onnx.reference builds a Range in a loop


def test_a_long_chain_with_many_readers_is_computed_once():
    steps = 250
    lines = ["w0 = Add (k, k)"] + [f"w{n} = Add (w{n - 1}, k)" for n in range(1, steps)]
    lines += ["h0 = Mul (x, w0)"] + [f"h{n} = Mul (h{n - 1}, w{n})" for n in range(1, steps)]
    proto = build(
        f"g (float[100] x) => (float[?] h{steps - 1}) {{ {'  '.join(lines)} }}", k=draw(100)
    )
    with counted_evaluations() as seen:
        fold(proto)
    assert len(seen) <= 3 * steps


def test_what_would_grow_stays_in_a_branch_too():
    branch = build(
        "g () => (float[?,?] b) { b = Add (column, row) }", column=draw(3000, 1), row=draw(1, 3000)
    ).graph
    other = build("g () => (float[?,?] b) { b = Identity (small) }", small=draw(1, 1)).graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=branch, else_branch=other)
    proto = build("g (bool c) => (float s) { s = ReduceSum <keepdims=0> (h) }")
    proto.graph.node.insert(0, node)
    size = proto.ByteSize()
    folded, _ = fold(proto)
    assert folded.ByteSize() <= size
    assert_same(proto, folded, {"c": np.array(True)})


KEPT = {
    "DequantizeLinear": "W = DequantizeLinear (q, s)",
    "Cast of codes": "W = Cast <to=1> (q)",
    "codec": "f = Cast <to=1> (q)  W = Mul (f, s)",
    "codec with zero point": "f = Cast <to=1> (q)  d = Sub (f, z)  W = Mul (d, s)",
    "half": "W = Cast <to=1> (h)",
    "RandomNormal": "W = RandomNormal <shape=[8,40]> ()",
    "RandomNormalLike": "W = RandomNormalLike (r)",
    "RandomUniformLike": "W = RandomUniformLike (r)",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", KEPT)
def test_small_forms_and_random_numbers_stay(name):
    proto = build(
        f"g (float[N,8] x) => (float[N,40] y) {{ {KEPT[name]}  y = MatMul (x, W) }}",
        q=RNG.integers(-127, 128, (8, 40)).astype("int8"),
        s=np.float32(0.02),
        z=np.float32(3),
        h=draw(8, 40, dtype="float16"),
        r=draw(8, 40),
    )
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    folded, report = fold(proto)
    assert not report.modified
    assert ops(folded) == ops(proto)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("w = Div (minus, three)", "int64"),
        ("w = Cast <to=2> (wild)", "uint8"),
        ("w = Cast <to=3> (wild)", "int8"),
        ("w = Cast <to=12> (wild)", "uint32"),
        ("w = Cast <to=13> (wild)", "uint64"),
        ("w = Cast <to=9> (wild)", "bool"),
        ("w = Cast <to=6> (big)", "int32"),
        ("w = Cast <to=10> (wild)", "float16"),
        ("w = Div (minusf, zerof)", "float"),
        ("w = Max (nan, minusf)", "float"),
        ("w = Min (nan, minusf)", "float"),
        ("w = Sign (nan)", "float"),
        ("w = Sqrt (minusf)", "float"),
        ("w = Mul (big, big)", "int64"),
        ("w = Neg (zerof)", "float"),
        ("w = Slice (minusf, last, first, axis0, back)", "float"),
        ("w = Gather (minusf, last)", "float"),
        ("w = Unsqueeze (minusf, last)", "float"),
        ("w = Ceil (minusf)", "float"),
        ("w = Abs (minus)", "int64"),
        ("w, w2 = Split (minusf, parts)", "float"),
        ("w = Greater (nan, minusf)", "bool"),
        ("w = ScatterND (minusf, axis0n, onef)", "float"),
    ],
)
def test_constants_are_what_the_runtime_would_have_computed(line, kind):
    """Or they are not folded: what counts is that nothing changes."""
    proto = build(
        f"g (bool c) => ({kind}[?] y) {{ {line}  v = Flatten <axis=0> (w)  f = Reshape (v, flat)"
        "  y = Concat <axis=0> (f, f) }",
        minus=np.int64([-7, 7, -1]),
        three=np.int64([2, 2, 3]),
        minusf=np.float32([-7.5, 7, -0.0]),
        zerof=np.float32([0, 0, 0]),
        onef=np.float32([9.0]),
        nan=np.float32([np.nan, 1, np.inf]),
        wild=np.float32([-1.5, 300.7, 70000.0]),
        big=np.int64([2**40 + 5, -(2**62), 2**31]),
        last=np.int64([-1]),
        first=np.int64([-100]),
        back=np.int64([-1]),
        axis0=np.int64([0]),
        axis0n=np.int64([[0]]),
        parts=np.int64([1, 2]),
        flat=np.int64([-1]),
    )
    folded, _ = fold(proto)
    feed = {"c": np.array(True)}
    (expected,), (actual,) = run(proto, feed), run(folded, feed)
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes() or (
        np.isnan(expected).any() and np.array_equal(actual, expected, equal_nan=True)
    )


def test_an_output_that_is_constant_stays_made_by_a_node():
    proto = build(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Neg (c)  z = Neg (x) }", c=draw(2)
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Neg"]
    assert_same(proto, folded, {"x": draw(2)})


def test_an_initializer_that_callers_may_override_is_no_constant():
    proto = build(
        "g (float[2] x, float[2] c) => (float[2] y) { d = Neg (c)  y = Add (x, d) }", c=draw(2)
    )
    folded, report = fold(proto)
    assert not report.modified
    feed = {"x": draw(2), "c": draw(2)}
    assert_same(proto, folded, feed)


# ---------------------------------------------------------------------------------- identities

GONE = {
    "Identity": "h = Identity (r)",
    "Dropout": "h = Dropout (r)",
    "Dropout off": "h = Dropout (r, ratio, off)",
    "Cast": "h = Cast <to=1> (r)",
    "Transpose": "h = Transpose <perm=[0,1]> (r)",
    "Transpose twice": "t = Transpose <perm=[1,0]> (r)  h = Transpose <perm=[1,0]> (t)",
    "Reshape": "h = Reshape (r, shape)",
    "Expand": "h = Expand (r, ones)",
    "Flatten": "h = Flatten (r)",
    "in a row": "a = Identity (r)  b = Dropout (a)  d = Cast <to=1> (b)  h = Identity (d)",
}


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("last", ["y = Neg (h)", "y = Identity (h)"])
def test_nodes_that_do_nothing_go(name, last):
    proto = build(
        f"g (float[3,4] x) => (float[?,?] y) {{ r = Relu (x)  {GONE[name]}  {last} }}",
        ratio=np.float32(0.5),
        off=np.array(False),
        shape=np.int64([3, 4]),
        ones=np.int64([1, 1]),
    )
    folded, _ = fold(proto)
    assert ops(folded) == (["Neg", "Relu"] if "Neg" in last else ["Relu"])
    assert not folded.graph.initializer
    assert_same(proto, folded, {"x": draw(3, 4)})


NEEDED = {
    "input to output": "y = Identity (x)  z = Neg (x)",
    "constant to output": "y = Identity (k)  z = Neg (x)",
    "two outputs": "r = Relu (x)  y = Identity (r)  z = Identity (r)",
    "an output of its own": "y = Relu (x)  z = Identity (y)",
    "Dropout mask": "r = Relu (x)  y, q = Dropout (r)  z = Cast <to=1> (q)",
    "Cast": "q = Cast <to=10> (x)  y = Cast <to=1> (q)  z = Neg (x)",
    "Transpose": "y = Transpose <perm=[1,0]> (x)  z = Neg (x)",
    "Reshape": "y = Reshape (x, turned)  z = Neg (x)",
    "Expand": "y = Expand (x, larger)  z = Neg (x)",
}


@pytest.mark.parametrize("name", NEEDED)
def test_nodes_that_do_something_stay(name):
    rank = "?,?,?" if name == "Expand" else "?,?"
    proto = build(
        f"g (float[3,4] x) => (float[{rank}] y, float[?,?] z) {{ {NEEDED[name]} }}",
        k=draw(2, 2),
        turned=np.int64([4, 3]),
        larger=np.int64([2, 1, 1]),
    )
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    folded, _ = fold(proto)
    left = len(proto.graph.node) - (name == "two outputs")
    assert len(folded.graph.node) == left
    assert_same(proto, folded, {"x": draw(3, 4)})


def test_an_identity_between_input_and_output_stays_with_a_reason():
    proto = build("g (float[3] x) => (float[3] y) { y = Identity (x) }")
    folded, report = fold(proto)
    assert folded == proto
    assert not report.modified
    assert any("between an input" in entry.text for entry in report.skipped)


def test_a_dropout_in_training_mode_stays():
    proto = build(
        "g (float[3,4] x) => (float[3,4] y) { r = Relu (x)  d = Dropout (r, ratio, on)  "
        "y = Neg (d) }",
        ratio=np.float32(0.5),
        on=np.array(True),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Dropout", "Neg", "Relu"]


def test_two_transposes_become_one_and_the_report_says_so():
    proto = build(
        "g (float[2,3,4] x) => (float[?,?,?] y) "
        "{ t = Transpose <perm=[1,2,0]> (x)  y = Transpose <perm=[0,2,1]> (t) }"
    )
    folded, report = fold(proto)
    assert ops(folded) == ["Transpose"]
    assert report.modified
    assert_same(proto, folded, {"x": draw(2, 3, 4)})


def test_a_transpose_that_others_read_too_stays_for_them():
    proto = build(
        "g (float[2,3] x) => (float[?,?] y, float[?,?] z) "
        "{ t = Transpose <perm=[1,0]> (x)  u = Transpose <perm=[1,0]> (t)  y = Neg (u) "
        " z = Neg (t) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Neg", "Transpose"]
    assert_same(proto, folded, {"x": draw(2, 3)})


def test_a_reshape_between_open_shapes_stays():
    proto = build(
        "g (float[N,4] x, int64[2] s) => (float[A,B] y) { r = Relu (x)  h = Reshape (r, s) "
        " y = Neg (h) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Relu", "Reshape"]
    assert_same(proto, folded, {"x": draw(3, 4), "s": np.int64([2, 6])})


# ------------------------------------------------------------------------ duplicates, dead code


def test_equal_constants_become_one():
    table = draw(16, 16)
    proto = build(
        "g (float[N,16] x) => (float[N,16] y) { h = MatMul (x, A)  y = MatMul (h, B) }",
        A=table,
        B=table.copy(),
    )
    folded, report = fold(proto)
    assert len(folded.graph.initializer) == 1
    assert any("equal" in entry.text for entry in report.changes)
    assert_same(proto, folded, {"x": draw(2, 16)})


def test_constants_that_differ_in_type_shape_or_sign_stay_apart():
    proto = build(
        "g (float[1,2] x, int64[1,2] i) => (float[?,?] y, int64[?,?] j, float[?,?] z) "
        "{ y = Add (x, A)  z = Div (x, B)  w = Reshape (C, D)  k = Add (i, w)  j = Add (k, E) }",
        A=np.float32([0, 0]),
        B=np.float32([-0.0, -0.0]),
        C=np.int64([[2, 1], [0, 0]])[:1],
        D=np.int64([1, 2]),
        E=np.int64([1, 2]),
    )
    folded, _ = fold(proto)
    assert {"A", "B"} <= {tensor.name for tensor in folded.graph.initializer}
    feed = {"x": np.float32([[1, 2]]), "i": np.int64([[1, 2]])}
    for expected, actual in zip(run(proto, feed), run(folded, feed), strict=True):
        assert np.array_equal(expected, actual)


def test_what_nothing_reads_goes():
    proto = build(
        "g (float[2] x, float[2] unused) => (float[2] y) "
        "{ d = Mul (x, dead)  e = Relu (d)  y = Neg (x) }",
        dead=draw(2),
        deader=draw(5),
    )
    folded, report = fold(proto)
    assert ops(folded) == ["Neg"]
    assert not folded.graph.initializer
    assert len(folded.graph.input) == 2
    assert report.modified
    assert_same(proto, folded, {"x": draw(2), "unused": draw(2)})


# -------------------------------------------------------------------------------------- bodies


def test_branches_are_cleaned_and_keep_what_they_give():
    then = build(
        "g () => (float[?,?,?,?] b) { i = Identity (x)  h = Conv (i, W)  "
        "n = BatchNormalization (h, g, b0, m, v)  b = Identity (n) }"
    ).graph
    other = build("g () => (float[?,?,?,?] b2) { b2 = Identity (r) }").graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other)
    numbers = norm(4)
    numbers["b0"] = numbers.pop("b")
    proto = build(
        "g (bool c, float[1,4,6,6] x) => (float[?,?,?,?] y) { r = Relu (x)  y = Neg (h) }",
        W=draw(4, 4, 1, 1),
        **numbers,
    )
    proto.graph.node.insert(1, node)
    folded, _ = fold(proto)
    branch = helper.get_attribute_value(
        next(n for n in folded.graph.node if n.op_type == "If").attribute[0]
    )
    assert "BatchNormalization" not in {inner.op_type for inner in branch.node}
    for chosen in (True, False):
        assert_same(proto, folded, {"c": np.array(chosen), "x": draw(1, 4, 6, 6)})


def test_the_body_of_a_loop_keeps_its_inputs_and_outputs():
    body = build(
        "g (int64 i, bool go, float[2] a) => (bool on, float[2] b, float[2] s) "
        "{ on = Identity (go)  k = Add (c, c)  t = Identity (a)  d = Dropout (t)  "
        "b = Add (d, k)  s = Identity (b) }"
    ).graph
    node = helper.make_node("Loop", ["count", "true", "x"], ["y", "z"], body=body)
    proto = build("g (float[2] x) => (float[2] y, float[?,2] z) {}", c=draw(2))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(3), "count"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    proto.graph.node.append(node)
    folded, report = fold(proto)
    assert report.modified
    assert_same(proto, folded, {"x": draw(2)})


# ------------------------------------------------------------------------------------ anything

STEPS = {
    "relu": "{o} = Relu ({i})",
    "identity": "{o} = Identity ({i})",
    "dropout": "{o} = Dropout ({i})",
    "cast": "{o} = Cast <to=1> ({i})",
    "turn": "{o} = Transpose <perm=[0,1,3,2]> ({i})",
    "turn more": "{o} = Transpose <perm=[0,2,3,1]> ({i})",
    "turn back": "{o} = Transpose <perm=[0,3,1,2]> ({i})",
    "reshape": "{o} = Reshape ({i}, shape)",
    "conv": "{o} = Conv ({i}, W1)",
    "conv again": "{o} = Conv ({i}, W2, c)",
    "norm": "{o} = BatchNormalization ({i}, g, b, m, v)",
    "norm again": "{o} = BatchNormalization ({i}, g, b, m, v)",
    "scale": "{o}k = Mul (g, b)  {o}r = Reshape ({o}k, channel)  {o} = Mul ({i}, {o}r)",
    "twin": "{o} = Add ({i}, {p})",
}


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8),
    st.lists(st.integers(0, 8), max_size=2),
)
def test_any_chain_stays_what_it_was(chosen, outs):
    lines, at, before = [], "x", "x"
    for number, step in enumerate(chosen):
        lines.append(STEPS[step].format(i=at, o=f"v{number}", p=before))
        at, before = f"v{number}", at
    outputs = list(dict.fromkeys([at, *(f"v{n}" for n in outs if n < len(chosen))]))
    proto = build(
        f"g (float[1,4,4,4] x) => ({', '.join(f'float[?,?,?,?] {name}' for name in outputs)}) "
        f"{{ {' '.join(lines)} }}",
        shape=np.int64([1, 4, 4, 4]),
        channel=np.int64([4, 1, 1]),
        W1=draw(4, 4, 1, 1),
        W2=draw(4, 4, 1, 1),
        c=draw(4),
        **norm(4),
    )
    folded, _ = fold(proto)
    assert_same(proto, folded, {"x": draw(1, 4, 4, 4)})
