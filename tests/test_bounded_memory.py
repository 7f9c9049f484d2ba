"""What loading, saving and compressing take in memory."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx.parser import parse_model

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import tensors

from arrays_in_pieces import (
    pieces_of,
    stored_in,
)

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
