"""Weights read, rounded and written a bounded piece at a time."""

import subprocess
import sys
import textwrap
import tracemalloc
from itertools import pairwise
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import CompressError, InvalidError
from onnx_compress.ir.graph import elements, from_proto, load, save, tensors
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.storage import THRESHOLD, Storage, shell
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import Half
from onnx_compress.kernels.affine import largest, quantize, scale_for, symmetric_scale
from onnx_compress.passes.quant.rounding import round_to_nearest

from graphs import parsed

ELEMENTS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING})
SHAPES = [(), (1,), (7,), (0,), (3, 0), (0, 3), (5, 2), (1, 40), (40, 1), (4, 3, 2, 5)]


def pieces_of(size: int):
    return mock.patch.object(tensors, "PIECE", size)


def numbers(element: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    low = 1 if element == TensorProto.FLOAT8E8M0 else 0  # which has no zero
    values = np.asarray(np.random.default_rng(seed).integers(low, low + 2, shape))
    return values.astype(helper.tensor_dtype_to_np_dtype(element))


def kept_elsewhere(tensor: TensorProto) -> tuple[TensorProto, Storage]:
    """The tensor with its bytes in a scratch file, between others."""
    storage = Storage()
    storage.append(np.full(13, 255, np.uint8))
    blob = storage.append(np.frombuffer(tensor.raw_data, np.uint8))
    storage.append(np.full(13, 255, np.uint8))
    return shell(tensor, blob), storage


def joined(tensor, storage: Storage) -> np.ndarray:
    """The pieces put together; they must be side by side."""
    found, end = [], 0
    for place, array in tensors.slices(tensor, storage):
        assert place.start == end
        assert place.stop - place.start == (len(array) if array.ndim else 1)
        found.append(array)
        end = place.stop
    return np.concatenate(found) if found[0].ndim else found[0]


# ----------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("size", [1, 3, 16, 1 << 24])
@pytest.mark.parametrize("element", ELEMENTS, ids=TensorProto.DataType.Name)
def test_the_pieces_of_a_tensor_are_all_of_it(element, size):
    for shape in SHAPES:
        array = numbers(element, shape)
        whole = numpy_helper.from_array(array)
        assert whole.HasField("raw_data")
        tensor, storage = kept_elsewhere(whole)
        for kept in (whole, tensor):
            with pieces_of(size):
                found = joined(kept, storage)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=9, min_side=0)),
    st.integers(1, 200),
)
def test_pieces_are_as_small_as_rows_allow(array, size):
    tensor, storage = kept_elsewhere(numpy_helper.from_array(array))
    with pieces_of(size):
        np.testing.assert_array_equal(joined(tensor, storage), array)
        most = max(part.nbytes for _, part in tensors.slices(tensor, storage))
    assert most <= max(size, array[:1].nbytes)


@pytest.mark.parametrize("element", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1])
def test_packed_numbers_are_read_whole(element):
    array = numbers(element, (9, 3))
    tensor, storage = kept_elsewhere(numpy_helper.from_array(array))
    with pieces_of(1):
        ((place, found),) = tensors.slices(tensor, storage)
    assert place == slice(0, 9)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("element", "field"),
    [
        (TensorProto.FLOAT, "float_data"),
        (TensorProto.DOUBLE, "double_data"),
        (TensorProto.FLOAT16, "int32_data"),
        (TensorProto.BFLOAT16, "int32_data"),
        (TensorProto.INT8, "int32_data"),
        (TensorProto.INT64, "int64_data"),
        (TensorProto.UINT64, "uint64_data"),
        (TensorProto.BOOL, "int32_data"),
    ],
)
def test_numbers_in_typed_fields_are_read(element, field):
    tensor = helper.make_tensor("t", element, [4, 2], [0, 1, 1, 0, 1, 0, 1, 1])
    assert len(getattr(tensor, field)) == 8
    with pieces_of(1):
        found = joined(tensor, Storage())
    np.testing.assert_array_equal(found, tensors.to_array(tensor, Storage()))
    assert found.astype(int).tolist() == [[0, 1], [1, 0], [1, 0], [1, 1]]


def model_of(array: np.ndarray) -> ModelProto:
    proto = parsed("(float[N] x) => (float[N] y) { y = Relu(x) }")
    proto.graph.initializer.append(numpy_helper.from_array(array, "w"))
    return proto


def stored_in(place: str, array: np.ndarray, folder: Path):
    """A model whose one weight is kept in its file, in one beside it, or in a caller's proto."""
    proto, path = model_of(array), folder / "m.onnx"
    if place == "proto":
        return from_proto(proto)
    save(from_proto(proto), path)
    if place == "data file":
        tensor = proto.graph.initializer[0]
        (folder / "w.bin").write_bytes(b"\xff" * 8 + tensor.raw_data + b"\xff" * 8)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", 8), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        path.write_bytes(proto.SerializeToString())
    return load(path)


@pytest.mark.parametrize("size", [100, 5000, 1 << 24])
@pytest.mark.parametrize("place", ["file", "data file", "proto"])
def test_weights_are_read_in_pieces_wherever_they_are(tmp_path, place, size):
    array = np.random.default_rng(0).standard_normal((61, 40)).astype(np.float32)
    model = stored_in(place, array, tmp_path)
    (value,) = model.graph.initializers
    assert value.tensor.data_location == TensorProto.EXTERNAL
    with pieces_of(size):
        np.testing.assert_array_equal(joined(value.tensor, model.storage), array)


@pytest.mark.parametrize("rows", [60, 62])
def test_data_that_do_not_fit_the_shape_are_refused_in_pieces_too(tmp_path, rows):
    stored_in("data file", np.ones((61, 40), np.float32), tmp_path)
    proto = ModelProto.FromString((tmp_path / "m.onnx").read_bytes())
    proto.graph.initializer[0].dims[0] = rows
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())

    def read() -> None:
        model = load(tmp_path / "m.onnx")
        joined(next(iter(model.graph.initializers)).tensor, model.storage)

    for size in (1 << 24, 100):
        with pieces_of(size), pytest.raises(InvalidError):
            read()


def test_reading_a_weight_of_a_proto_holds_one_copy_at_most():
    array = np.zeros((64, 1 << 16), np.float32)
    model = from_proto(model_of(array))
    (value,) = model.graph.initializers
    with pieces_of(1 << 20):
        peak = traced(lambda: [None for _ in tensors.slices(value.tensor, model.storage)])
    assert peak < 1.5 * array.nbytes


def traced(action) -> int:
    """Most bytes of Python and numpy that an action holds at a time."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------------- in pieces, codes

READERS = {
    "MatMul": ("y = MatMul(x, w)", (6, 4)),
    "MatMul from the left": ("y = MatMul(w, x)", (6, 4)),
    "MatMul of stacks": ("y = MatMul(x, w)", (3, 6, 4)),
    "Conv": ("y = Conv(x, w)", (6, 4, 3, 3)),
    "ConvTranspose": ("y = ConvTranspose(x, w)", (6, 4, 3)),
    "grouped Conv": ("y = Conv<group = 2>(x, w)", (6, 2, 3)),
    "Gemm": ("y = Gemm(x, w)", (6, 4)),
    "transposed Gemm": ("y = Gemm<transB = 1>(x, w)", (6, 4)),
    "Gather": ("i = Cast<to = 7>(x) y = Gather(w, i)", (9, 4)),
    "Gather along columns": ("i = Cast<to = 7>(x) y = Gather<axis = 1>(w, i)", (9, 4)),
    "LSTM": ("y = LSTM<hidden_size = 3>(x, w, w)", (1, 12, 3)),
    "two readers": ("a = MatMul(x, w) b = Gemm<transB = 1>(a, w) y = Relu(b)", (6, 6)),
    "behind Transpose": ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", (6, 4)),
}


def weight_of(kind: str, array: np.ndarray):
    """The weight, kept elsewhere though it is small."""
    model = from_proto(parsed(f"(float x) => (float y) {{ {READERS[kind][0]} }}", w=array))
    (value,) = model.graph.initializers
    blob = model.storage.append(np.frombuffer(value.tensor.raw_data, np.uint8))
    value.tensor = shell(value.tensor, blob)
    (weight,) = find_weights(model)
    return weight


@st.composite
def weights(draw):
    kind = draw(st.sampled_from(list(READERS)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    array = draw(
        hnp.arrays(
            dtype,
            READERS[kind][1],
            elements=st.floats(-60000, 60000, width=16) | st.sampled_from([0.0, -0.0, 1e-7, 3e4]),
        )
    )
    return kind, array


@given(weights(), st.integers(1, 2000), st.sampled_from([7, 8]))
def test_codes_and_scales_are_those_of_the_whole_array(found, size, bits):
    kind, array = found
    weight = weight_of(kind, array)
    with pieces_of(size):
        codes, scale = round_to_nearest(weight, bits)
    expected = symmetric_scale(array, weight.channel_axes, bits)
    assert (scale.dtype, scale.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(scale, expected)
    np.testing.assert_array_equal(codes, quantize(array, expected, bits))
    assert codes.dtype == np.int8


@given(weights(), st.integers(1, 2000))
def test_halves_are_those_of_the_whole_array(found, size):
    kind, array = found
    with pieces_of(size):
        form = Half.of(weight_of(kind, array))
    expected = array.astype(np.float16)
    np.testing.assert_array_equal(form.codes.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_finite_is_found_wherever_it_stands(kind, wrong):
    shape = READERS[kind][1]
    for at in {0, 1, int(np.prod(shape)) // 2, int(np.prod(shape)) - 1}:
        array = np.ones(shape, np.float32)
        array.flat[at] = wrong
        for size in (1, 50, 1 << 24):
            with pieces_of(size):
                assert isinstance(round_to_nearest(weight_of(kind, array), 8), No)
                assert isinstance(Half.of(weight_of(kind, array)), No)


def test_a_number_too_large_for_halves_is_found_wherever_it_stands():
    for at in range(24):
        array = np.ones((6, 4), np.float32)
        array.flat[at] = 65505
        with pieces_of(16):
            assert isinstance(Half.of(weight_of("MatMul", array)), No)
            assert not isinstance(round_to_nearest(weight_of("MatMul", array), 8), No)


@st.composite
def arrays_in_parts(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
    shape = draw(hnp.array_shapes(max_dims=4, max_side=5))
    whole = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=16))).astype(dtype)
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))
    cuts = sorted(draw(st.sets(st.integers(1, shape[0]))) | {0, shape[0]})
    return whole, axes, [slice(*pair) for pair in pairwise(cuts)]


@given(arrays_in_parts())
def test_the_largest_of_pieces_is_the_largest_of_the_whole(found):
    array, axes, places = found
    tops = [largest(array[place], axes) for place in places]
    top = np.concatenate(tops) if 0 in axes else np.maximum.reduce(tops)
    whole = largest(array, axes)
    assert (top.dtype, top.shape) == (whole.dtype, whole.shape)
    np.testing.assert_array_equal(top, whole)
    assert np.isfinite(whole).all() == np.isfinite(array.astype(np.float32)).all()


@given(arrays_in_parts(), st.integers(2, 8))
def test_a_scale_is_that_of_the_largest_magnitude(found, bits):
    array, axes, _ = found
    np.testing.assert_array_equal(
        symmetric_scale(array, axes, bits), scale_for(largest(array, axes), bits)
    )


# -------------------------------------------------------------------------------------- from_array

SIZES = [(), (0,), (3, 0), (1,), (5, 3), (THRESHOLD, 2), (2, 3, THRESHOLD)]


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers, however they lie in memory."""
    found = {"plain": array}
    if array.ndim:
        found["Fortran"] = np.asfortranarray(array)
        found["every second"] = np.repeat(array, 2, axis=-1)[..., ::2]
        found["reversed"] = array[::-1].copy()[::-1]
    return found


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("element", ELEMENTS, ids=TensorProto.DataType.Name)
def test_arrays_of_any_type_layout_and_size_become_tensors_and_back(element, shape):
    array = numbers(element, shape)
    for given_array in layouts(array).values():
        storage = Storage()
        tensor = tensors.from_array(given_array, storage)
        assert (tensor.data_type, tuple(tensor.dims)) == (element, shape)
        found = tensors.to_array(tensor, storage)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        large = elements.nbytes(tensor) >= THRESHOLD
        assert (tensor.data_location == TensorProto.EXTERNAL) == large


@pytest.mark.parametrize("size", [3, THRESHOLD])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8"])
def test_arrays_of_the_other_byte_order_become_tensors(kind, size):
    array = np.arange(size).astype(f">{kind}")
    storage = Storage()
    found = tensors.to_array(tensors.from_array(array, storage), storage)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("size", [3, THRESHOLD])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, ml_dtypes.bfloat16, ml_dtypes.int4, bool])
def test_a_tensor_does_not_change_with_the_array_it_was_made_of(dtype, size):
    array = np.ones((2, size), dtype)
    storage = Storage()
    tensor = tensors.from_array(array, storage)
    array[...] = 0
    assert (tensors.to_array(tensor, storage) == np.ones((), dtype)).all()


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(width=32)))
def test_no_bit_of_a_number_is_lost(array):
    for each in (array, np.tile(array, THRESHOLD)):
        storage = Storage()
        found = tensors.to_array(tensors.from_array(each, storage), storage)
        np.testing.assert_array_equal(found.view(np.uint32), each.view(np.uint32))


def test_a_large_array_is_written_without_a_copy():
    array = np.zeros(1 << 23, np.float32)
    storage = Storage()
    assert traced(lambda: tensors.from_array(array, storage)) < array.nbytes // 8


# ------------------------------------------------------------------------------------------ memory

MB = 1 << 20


def large_model(folder: Path, count: int, side: int) -> Path:
    """`count` products of side x side, nearly all zeros: the file has holes, and takes no room."""
    names = [f"w{at}" for at in range(count)]
    steps = " ".join(f"p{at} = MatMul(h{at}, w{at}) h{at + 1} = Add(p{at}, h{at})"
                     for at in range(count))  # fmt: skip
    model = parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{side}] h0) => '
        f"(float[N,{side}] h{count}) {{ {steps} }}"
    )
    nbytes = side * side * 4
    with open(folder / "w.bin", "wb") as file:
        file.truncate(count * nbytes)
        for at, name in enumerate(names):
            file.seek(at * nbytes)
            file.write(np.full(side, (at + 1) / side, np.float32).tobytes())
            tensor = model.graph.initializer.add(name=name, data_type=1, dims=[side, side])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "w.bin"), ("offset", at * nbytes), ("length", nbytes)):
                tensor.external_data.add(key=key, value=str(value))
    (folder / "in.onnx").write_bytes(model.SerializeToString())
    return folder / "in.onnx"


def growth(folder: Path, code: str) -> float:
    """MB that a process takes at most, above what it takes once everything is imported."""
    program = """
        import resource
        import numpy as np
        import onnx_compress.cli, onnx_compress.passes.quant, onnxruntime, onnx.reference
        from onnx_compress.ir.graph import load, save
        from onnx_compress import compress

        def most():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        start = most()
        {code}
        print(most() - start)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program).replace("{code}", code)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


LOAD_AND_SAVE = "save(load('in.onnx'), 'out.onnx')"
QUANT = (
    "compress('in.onnx', 'quant(bits={bits})', out='out.onnx', memory=32 << 20, threads=1, "
    "target='avx512-vnni', fold={fold})"
)


def test_a_file_is_loaded_and_saved_without_its_weights_in_memory(tmp_path):
    large_model(tmp_path, 12, 2560)
    assert growth(tmp_path, LOAD_AND_SAVE) < 100
    assert (tmp_path / "out.onnx").stat().st_size > 300 * 1e6


def test_one_large_tensor_is_loaded_and_saved_in_pieces(tmp_path):
    large_model(tmp_path, 1, 7000)
    assert growth(tmp_path, LOAD_AND_SAVE) < 100


def test_a_model_is_quantized_with_little_memory(tmp_path):
    large_model(tmp_path, 16, 1024)
    assert growth(tmp_path, QUANT.format(bits=8, fold=True).replace("32 <<", "4 <<")) < 100


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("count", "side", "allowed"), [(12, 2560, 250), (48, 1280, 250), (3, 5120, 400)]
)
def test_a_large_model_is_quantized_with_little_memory(tmp_path, count, side, allowed, bits, fold):
    large_model(tmp_path, count, side)
    assert growth(tmp_path, QUANT.format(bits=bits, fold=fold)) < allowed


@pytest.mark.slow
def test_the_command_bounds_its_memory(tmp_path):
    large_model(tmp_path, 12, 2560)
    arguments = "'in.onnx', 'out.onnx', '--passes', 'quant(bits=8)', '--memory', '32MB', '--quiet'"
    assert growth(tmp_path, f"assert onnx_compress.cli.main([{arguments}]) == 0") < 250


def test_a_data_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    array = np.ones((61, 40), np.float32)
    model = stored_in("data file", array, tmp_path)
    (value,) = model.graph.initializers

    def read_and_cut() -> None:
        for _ in tensors.slices(value.tensor, model.storage):
            (tmp_path / "w.bin").write_bytes(b"\0" * 500)

    with pieces_of(1000), pytest.raises(CompressError):
        read_and_cut()
