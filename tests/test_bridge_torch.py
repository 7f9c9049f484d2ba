"""The bridge to torch: what torch.onnx.export gives, in and out."""

import numpy as np
import pytest

from onnx_compress import compress
from onnx_compress.bridges.torch import from_torch, to_torch
from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph import kinds, load, to_proto
from onnx_compress.ir.graph.invariants import check

from graphs import run

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx_ir = pytest.importorskip("onnx_ir")

DATA = {"x": np.random.default_rng(0).standard_normal((16, 96)).astype(np.float32)}
X = torch.from_numpy(DATA["x"][:3])


class Layers(torch.nn.Module):
    """Weights as torch holds them: tied, in bfloat16, read transposed."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(96, 96)
        self.tied = self.first
        self.last = torch.nn.Linear(96, 64)
        self.scale = torch.nn.Parameter(torch.rand(64, 64).bfloat16())

    def forward(self, x):
        h = torch.relu(self.tied(torch.relu(self.first(x))))
        return self.last(h) @ self.scale.float().T


def exported():
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    module = Layers().eval()
    return torch.onnx.export(module, (X,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def program():
    return exported()


def written(program) -> bytes:
    return program.model_proto.SerializeToString(deterministic=True)


def test_a_program_is_read_without_a_copy_and_comes_back_as_one(program):
    before = written(program)
    model = from_torch(program)
    check(model)
    assert model.skeleton().ByteSize() < 20_000
    assert to_proto(model) == program.model_proto
    back = to_torch(model, program.exported_program)
    assert isinstance(back, torch.onnx.ONNXProgram)
    assert written(back) == before
    torch.testing.assert_close(back(X), program(X))
    shared = []
    for name, value in program.model.graph.initializers.items():
        array = value.const_value.numpy()
        if array.nbytes >= 4096 and array.flags.c_contiguous:
            ours = back.model.graph.initializers[name].const_value.numpy()
            assert np.shares_memory(ours, array)
            shared.append(name)
    assert "last.weight" in shared


def test_compress_gives_a_new_program_and_leaves_the_old_one(program, tmp_path):
    before = written(program)
    result = compress(program, "quant(bits=8)", calibration=DATA, measure=False)
    small = result.model
    assert isinstance(small, torch.onnx.ONNXProgram)
    assert small is not program
    assert small.exported_program is program.exported_program
    assert result.report.ratio > 2
    assert written(program) == before
    expected, found = program(X)[0], small(X)[0]
    assert (expected - found).norm() < 0.05 * expected.norm()
    small.save(tmp_path / "one.onnx")
    small.save(tmp_path / "two.onnx", external_data=True)
    for path in tmp_path.glob("*.onnx"):
        np.testing.assert_allclose(run(load(path), x=X.numpy())[0], found, rtol=1e-4, atol=1e-4)


def test_what_torch_offers_for_a_program_goes_on_working(program):
    small = compress(program, "quant(bits=8)", measure=False).model
    expected = small(X)[0]
    names = [value.name for value in small.model.graph.outputs]
    torch.testing.assert_close(small.compute_values(names, (X,))[0], expected)
    small.release()
    small.optimize()
    torch.testing.assert_close(small(X)[0], expected, rtol=1e-4, atol=1e-4)


def test_weights_are_those_the_program_has_when_it_is_read(program):
    state = {"last.weight": torch.zeros(64, 96)}
    other = to_torch(from_torch(program))
    other.apply_weights(state)
    numbers = {value.name: value for value in from_torch(other).graph.initializers}
    assert not from_torch(other).constant(numbers["last.weight"]).any()
    view, _ = kinds.read(program)
    assert view.constant(next(v for v in view.graph.initializers if v.name == "last.weight")).any()


def test_a_program_without_weights_is_refused_in_words(program):
    empty = to_torch(from_torch(program))
    with torch._subclasses.fake_tensor.FakeTensorMode():
        fake = torch.empty(64, 96)
    empty.apply_weights({"last.weight": fake})
    with pytest.raises(UnsupportedError) as caught:
        compress(empty, "fold", measure=False)
    assert "apply_weights" in caught.value.hint
