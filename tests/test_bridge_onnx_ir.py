"""The bridge to onnx-ir: all that a model holds goes through it, and no weight is copied."""

import gc
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_compress import compress
from onnx_compress.bridges import needs
from onnx_compress.bridges.onnx_ir import as_onnx_ir_pass, from_onnx_ir, to_onnx_ir
from onnx_compress.ir.errors import (
    InvalidError,
    LoadError,
    OutputError,
    PreconditionError,
    UnsupportedError,
)
from onnx_compress.ir.graph import from_proto, kinds, load, save, to_proto
from onnx_compress.ir.graph.invariants import check

from graphs import WIDE, everything, product, run, weight
from models_by_text import nothing_to_do

X = np.ones((1, WIDE), np.float32)
TYPES = """FLOAT FLOAT16 BFLOAT16 DOUBLE COMPLEX64 BOOL INT8 UINT16 INT64 INT4 UINT4 INT2 UINT2
    FLOAT4E2M1 FLOAT6E2M3 FLOAT6E3M2 FLOAT8E4M3FN FLOAT8E5M2FNUZ FLOAT8E8M0""".split()
TYPES = [name for name in TYPES if hasattr(TensorProto, name)]

# a weight in a graph, in a Constant node, in a branch, in a function; the first is used twice
PLACES = f"""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
g (float[N,{WIDE}] x, bool c) => (float[N,{WIDE}] y) {{
    h = MatMul(x, w)  i = MatMul(h, w)  k = Constant<value = float[1] {{1}}>()  j = MatMul(i, k)
    b = If (c) <then_branch = yes () => (float[N,{WIDE}] r) {{ r = MatMul(j, v) }},
                else_branch = no () => (float[N,{WIDE}] s)
                    {{ q = Constant<value = float[1] {{1}}>()  s = MatMul(j, q) }}>
    y = local.f(b)
}}
<domain: "local", opset_import: ["" : 17]>
f (p) => (o) {{ m = Constant<value = float[1] {{1}}>()  o = MatMul(p, m) }}"""


def whole() -> ModelProto:
    """What onnx-ir can hold; without the metadata of tensors, which it writes twice."""
    model = everything()
    del model.graph.sparse_initializer[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
    return model


def places() -> ModelProto:
    model = parse_model(PLACES)
    branches = next(node for node in model.graph.node if node.op_type == "If").attribute
    model.graph.initializer.append(numpy_helper.from_array(weight(0), "w"))
    branches[0].g.initializer.append(numpy_helper.from_array(weight(1), "v"))
    bodies = (model.graph, branches[1].g, model.functions[0])
    for seed, body in enumerate(bodies, 2):
        node = next(node for node in body.node if node.op_type == "Constant")
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(weight(seed)))
    return model


def held(model: onnx_ir.Model) -> list:
    """All tensors that a model holds."""
    found = []
    for graph in (*model.graphs(), *(f.graph for f in model.functions.values())):
        found += [value.const_value for value in graph.initializers.values()]
        for node in graph:
            found += [a.value for a in node.attributes.values() if a.type.name == "TENSOR"]
    return found


def one(tensor) -> onnx_ir.Model:
    """product() with another tensor for w."""
    model = onnx_ir.from_proto(product())
    model.graph.initializers["w"].const_value = tensor
    return model


def of_one(tensor) -> np.ndarray:
    model = from_onnx_ir(one(tensor))
    return model.constant(next(v for v in model.graph.initializers if v.name == "w"))


def written(model: onnx_ir.Model) -> bytes:
    return onnx_ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("proto", [whole(), places(), product(3)], ids=["all", "places", "old"])
def test_it_gives_what_onnx_ir_itself_reads_and_writes(proto):
    before = proto.SerializeToString(deterministic=True)
    expected = onnx_ir.to_proto(onnx_ir.from_proto(proto))
    there = from_onnx_ir(onnx_ir.from_proto(proto))
    check(there)
    assert to_proto(there) == expected
    assert onnx_ir.to_proto(to_onnx_ir(from_proto(proto))) == expected
    assert to_proto(from_onnx_ir(to_onnx_ir(from_proto(proto)))) == expected
    assert proto.SerializeToString(deterministic=True) == before


def test_metadata_documentation_and_types_survive():
    model = everything()
    del model.graph.sparse_initializer[:]
    again = to_proto(from_onnx_ir(to_onnx_ir(from_proto(model))))
    nodes = zip(model.graph.node, again.graph.node, strict=True)
    for was, now in ((model, again), (model.graph, again.graph), *nodes):
        assert was.doc_string == now.doc_string
        assert list(was.metadata_props) == list(now.metadata_props)
    assert again.functions[0].doc_string == model.functions[0].doc_string
    assert again.graph.input == model.graph.input
    assert again.graph.output == model.graph.output
    assert again.graph.quantization_annotation == model.graph.quantization_annotation
    assert {v.name for v in model.graph.value_info} <= {v.name for v in again.graph.value_info}
    tensors = [{t.name: t for t in found.graph.initializer} for found in (model, again)]
    tensors[0]["large"].ClearField("doc_string")  # empty
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("kept", ["inline", "external", "proto", "onnx_ir", "twice"])
def test_weights_are_found_wherever_they_are_kept(tmp_path, kept):
    proto = places()
    save(from_proto(proto), tmp_path / "m.onnx", external=kept == "external")
    model = from_proto(proto) if kept == "proto" else load(tmp_path / "m.onnx")
    if kept in ("onnx_ir", "twice"):
        model = from_onnx_ir(onnx_ir.load(tmp_path / "m.onnx"))
    if kept == "twice":
        model = from_onnx_ir(to_onnx_ir(model))
    assert model.skeleton().ByteSize() < WIDE * WIDE
    expected = [tensor.numpy() for tensor in held(onnx_ir.from_proto(proto))]
    found = held(to_onnx_ir(model))
    assert len(found) == 5
    for was, now in zip(expected, found, strict=True):
        np.testing.assert_array_equal(now.numpy(), was)
        np.testing.assert_array_equal(now, was)
        assert now.tobytes() == was.tobytes()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("external", [False, True])
def test_every_element_type_comes_through_bit_by_bit(tmp_path, name, external):
    kind = getattr(TensorProto, name)
    bits, top = onnx_ir.DataType(kind).bitwidth, 2 if name == "BOOL" else 256
    data = np.random.default_rng(0).integers(0, top, 9000 * bits // 8, np.uint8).tobytes()
    proto = product()
    proto.graph.initializer.add(name="t", data_type=kind, dims=[90, 100], raw_data=data)
    save(from_proto(proto), tmp_path / "m.onnx", external=external)
    expected = onnx_ir.from_proto(proto.graph.initializer[-1]).numpy()
    for model in (load(tmp_path / "m.onnx"), from_onnx_ir(onnx_ir.load(tmp_path / "m.onnx"))):
        tensor = to_onnx_ir(model).graph.initializers["t"].const_value
        assert tensor.tobytes() == data
        assert tensor.dtype == kind
        assert tensor.numpy().dtype == expected.dtype
        assert tensor.numpy().tobytes() == expected.tobytes()
    if not external:  # numbers that onnx-ir holds unpacked, one a byte
        loose = onnx_ir.Tensor(expected, onnx_ir.DataType(kind), name="t")
        again = onnx_ir.from_proto(proto)
        again.graph.initializers["t"].const_value = loose
        assert to_proto(from_onnx_ir(again)).graph.initializer[-1].raw_data == data


def test_no_weight_is_copied_and_files_are_only_mapped(tmp_path):
    array = np.ones((1024, 4096), np.float32)  # 16 MB
    big = one(onnx_ir.Tensor(array, name="w"))
    onnx_ir.save(big, tmp_path / "m.onnx", external_data="m.data")
    files = onnx_ir.load(tmp_path / "m.onnx")
    tracemalloc.start()
    back = to_onnx_ir(from_onnx_ir(big)).graph.initializers["w"].const_value.numpy()
    model = from_onnx_ir(files)
    mapped = to_onnx_ir(model).graph.initializers["w"].const_value.numpy()
    assert mapped[-1, -1] == 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert np.shares_memory(back, array)
    assert model.storage.data_files() == [tmp_path / "m.data"]
    assert files.graph.initializers["w"].const_value.raw is None  # not even mapped


def test_lazy_tensors_are_asked_once_a_reading_and_the_numbers_not_kept(tmp_path):
    calls: list[int] = []

    def make() -> onnx_ir.Tensor:
        calls.append(1)
        return onnx_ir.Tensor(np.full((3000, 3000), 2, np.float32).T)  # 36 MB: three pieces

    shape = onnx_ir.Shape([3000, 3000])
    model = from_onnx_ir(one(onnx_ir.LazyTensor(make, onnx_ir.DataType.FLOAT, shape=shape)))
    assert not calls
    save(model, tmp_path / "m.onnx")
    assert len(calls) == 1
    assert onnx_ir.load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy().min() == 2


def test_tensors_outlive_the_model_and_its_files(tmp_path):
    path = tmp_path / "m.onnx"
    save(from_proto(product()), path)
    model = load(path)
    v = next(value for value in model.graph.initializers if value.name == "v")
    model.set_constant(v, weight(5))  # in scratch
    out = to_onnx_ir(model)
    path.unlink()
    path.write_bytes(b"another")
    del model, v
    gc.collect()
    onnx_ir.save(out, path)  # where it came from
    np.testing.assert_array_equal(run(load(path), x=X), run(product(v=weight(5)), x=X))


def test_a_tensor_used_twice_is_kept_once_and_its_name_stays():
    tensor = onnx_ir.Tensor(weight(0), name="anything")
    model = one(tensor)
    model.graph.initializers["v"].const_value = tensor
    ours = from_onnx_ir(model)
    first, second = (value.tensor.external_data for value in ours.graph.initializers)
    assert first == second
    assert to_proto(ours).graph.initializer[1].name == "v"
    assert tensor.name == "anything"  # onnx-ir's own writer would have renamed it


@pytest.mark.parametrize(
    ("location", "change"),
    [("../m.data", ""), ("{}/m.data", ""), ("m.data", "link"), ("none", ""), ("m.data", "cut")],
)
def test_files_that_are_not_plain_ones_in_the_folder_are_refused(tmp_path, location, change):
    folder = tmp_path / "sub"
    folder.mkdir()
    for path in (tmp_path / "m.data", folder / "m.data"):
        path.write_bytes(weight(0).tobytes()[: 100 if change == "cut" else None])
    if change == "link":
        (folder / "m.data").unlink()
        (folder / "m.data").symlink_to(tmp_path / "m.data")
    shape = onnx_ir.Shape([WIDE, WIDE])
    where = location.format(folder), 0, WIDE * WIDE * 4, onnx_ir.DataType.FLOAT
    with pytest.raises(LoadError):
        from_onnx_ir(one(onnx_ir.ExternalTensor(*where, shape=shape, name="w", base_dir=folder)))


def test_tensors_that_cannot_be_read_say_so_in_words():
    def fails() -> onnx_ir.Tensor:
        raise RuntimeError("no numbers")

    flat = onnx_ir.DataType.FLOAT, onnx_ir.Shape([WIDE, WIDE])
    with pytest.raises(UnsupportedError, match="no numbers"):
        of_one(onnx_ir.LazyTensor(fails, *flat))
    with pytest.raises(InvalidError, match="4 bytes where"):
        of_one(onnx_ir.LazyTensor(lambda: onnx_ir.Tensor(np.float32([1])), *flat))
    with pytest.raises(InvalidError, match="without numbers"):
        from_onnx_ir(one(None))
    gone = onnx_ir.ExternalTensor("x", 0, 4, *flat[:1], shape=onnx_ir.Shape([1]), name="w")
    gone.invalidate()
    with pytest.raises(LoadError, match="overwritten"):
        from_onnx_ir(one(gone))


def test_what_onnx_ir_cannot_hold_is_refused():
    with pytest.raises(UnsupportedError, match="sparse"):
        to_onnx_ir(from_proto(everything()))
    maps = nothing_to_do()
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, [1]))
    maps.graph.value_info.add(name="y").type.CopyFrom(kind)
    maps.graph.output[0].type.CopyFrom(kind)
    with pytest.raises(UnsupportedError, match="Map"):
        to_onnx_ir(from_proto(maps))
    sparse = helper.make_attribute("sparse_value", SparseTensorProto(dims=[1]))
    text = nothing_to_do()
    text.graph.node.add(op_type="Constant", output=["k"]).attribute.append(sparse)
    with pytest.raises(UnsupportedError, match=r"[Ss]parse"):
        to_onnx_ir(from_proto(text))
    lists = nothing_to_do()
    lists.graph.node[0].attribute.append(helper.make_attribute("texts", [b"\xff"]))
    with pytest.raises(UnsupportedError, match="utf-8"):
        to_onnx_ir(from_proto(lists))
    empty = onnx_ir.from_proto(product())
    empty.graph.outputs.clear()
    with pytest.raises(InvalidError, match="no outputs"):
        from_onnx_ir(empty)


def test_compress_takes_and_gives_models_of_onnx_ir(digits, tmp_path):
    model = onnx_ir.load(digits)
    before = written(model)
    view, source = kinds.read(model)
    assert source is None
    assert written(kinds.like(model, view, None)) == before
    result = compress(model, "quant(bits=8)", calibration=digits.with_suffix(".npz"), measure=False)
    assert isinstance(result.model, onnx_ir.Model)
    assert result.report.ratio > 3.5
    assert written(model) == before
    onnx_ir.save(result.model, tmp_path / "one.onnx")
    onnx_ir.save(result.model, tmp_path / "two.onnx", external_data="two.data")
    feed = {"image": np.load(digits.with_suffix(".npz"))["image"][:8]}
    outputs = [run(load(path), **feed)[0] for path in sorted(tmp_path.glob("*.onnx"))]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(outputs[0], run(load(digits), **feed)[0], atol=0.5)


def test_the_pass_is_functional_and_goes_with_others():
    model = onnx_ir.from_proto(product())
    before = written(model)
    ours = as_onnx_ir_pass("quant(bits=8)", measure=False)
    assert not ours.changes_input
    assert not ours.in_place
    result = onnx_ir.passes.Sequential(ours, RemoveUnusedNodesPass())(model)
    assert result.modified
    assert ours.summaries[0].ratio > 2
    assert written(model) == before
    assert not as_onnx_ir_pass("fold")(onnx_ir.from_proto(nothing_to_do())).modified
    strict = as_onnx_ir_pass("quant(bits=8)", max_error=1e-9, strict=True)
    with pytest.raises(onnx_ir.passes.PassError) as caught:
        onnx_ir.passes.Sequential(strict)(model)
    assert "max-error" in caught.value.__cause__.hint


def test_onnx_ir_is_imported_for_those_who_use_it_alone(monkeypatch):
    code = (
        "import onnx, sys; from onnx_compress import compress; from onnx_compress.ir.graph import "
        "kinds; kinds.read(onnx.ModelProto.FromString(bytes.fromhex(sys.argv[1]))); "
        "print({'onnx_ir', 'torch', 'olive'} & set(sys.modules))"
    )
    model = nothing_to_do().SerializeToString().hex()
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(PreconditionError) as caught, needs("onnx-ir"):
        import onnx_ir as _  # noqa: F401
    assert caught.value.hint == 'pip install "onnx-compress[onnx-ir]"'


def test_the_data_of_the_model_given_are_not_overwritten(tmp_path):
    onnx.save(
        product(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=9,
    )
    before = (tmp_path / "m.data").read_bytes()
    with pytest.raises(OutputError, match="weights of the input"):
        compress(onnx_ir.load(tmp_path / "m.onnx"), "quant(bits=8)", out=tmp_path / "m.data")
    assert (tmp_path / "m.data").read_bytes() == before
