"""Models read and written again: nothing is lost, in one file or two."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import from_proto, load, save, to_bytes, to_proto
from onnx_compress.ir.graph.files import file_size

from graphs import WIDE, everything, product, run, weight


def test_whatever_the_format_holds_comes_back_unchanged(tmp_path):
    model = everything()
    assert to_proto(from_proto(model)) == model
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert to_proto(load(path)) == model
    save(load(path), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == model


def test_the_callers_model_is_neither_changed_nor_copied_from_later():
    model = everything()
    before = model.SerializeToString(deterministic=True)
    view = from_proto(model)
    relu = view.graph.outputs[0][0].producer
    large = next(value for value in view.graph.initializers if value.name == "large")
    view.set_constant(large, weight(3))
    small = next(value for value in view.graph.initializers if value.name == "i4")
    view.set_constant(small, view.constant(small)[::-1])
    view.set_attribute(next(n for n in view.nodes() if n.op == "Concat"), "axis", -1)
    view.replace_uses(relu.output, view.add_node(view.graph, "Neg", [relu.output]), lambda _: False)
    view.set_opset("com.microsoft", 2)
    assert to_bytes(view)
    assert model.SerializeToString(deterministic=True) == before


def test_two_saves_give_the_same_bytes(tmp_path):
    view = from_proto(everything())
    save(view, tmp_path / "a.onnx")
    save(view, tmp_path / "b.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "c.onnx")
    first = (tmp_path / "a.onnx").read_bytes()
    assert first == (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    assert first == to_bytes(view)
    assert len(first) == file_size(view)


def test_the_sizes_told_are_those_of_the_files(tmp_path):
    view = from_proto(product())
    single = save(view, tmp_path / "a.onnx")
    assert single == (tmp_path / "a.onnx").stat().st_size == file_size(view)
    double = save(view, tmp_path / "b.onnx", external=True)
    files = list(tmp_path.glob("b.onnx*"))
    assert len(files) == 2
    assert double == sum(file.stat().st_size for file in files)


def test_external_files_are_read_by_onnx_by_the_runtime_and_by_us(tmp_path):
    model = product()
    extra = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weight(2)))
    model.graph.node.insert(0, extra)
    model.graph.node.append(helper.make_node("MatMul", ["y", "k"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    path = tmp_path / "m.onnx"
    save(from_proto(model), path, external=True)
    skeleton = onnx.load(path, load_external_data=False)
    assert path.stat().st_size < 2000
    references = [
        {e.key: e.value for e in tensor.external_data}
        for tensor in (*skeleton.graph.initializer, skeleton.graph.node[0].attribute[0].t)
    ]
    (data,) = tmp_path.glob("m.onnx.*.data")
    assert [r["location"] for r in references] == [data.name] * 3
    assert all(int(r["offset"]) % 4096 == 0 for r in references)
    x = np.ones((2, WIDE), np.float32)
    expected = run(model, x=x)
    for results in (run(path, x=x), run(load(path), x=x), run(onnx.load(path), x=x)):
        np.testing.assert_array_equal(results, expected)
    save(load(path), tmp_path / "single.onnx")
    assert onnx.load(tmp_path / "single.onnx") == to_proto(from_proto(model))


def test_data_written_in_other_fields_than_raw_are_kept_there(tmp_path):
    model = product(w=weight(0)[:1])
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, [WIDE, WIDE], weight().ravel().tolist())
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    view = load(path)
    (w, _) = view.graph.initializers
    np.testing.assert_array_equal(view.constant(w), weight())
    assert to_proto(view) == model


def test_external_tensors_without_elements_come_back(tmp_path):
    path = tmp_path / "m.onnx"
    model = product()
    empty = TensorProto(name="none", data_type=TensorProto.FLOAT, dims=[0, WIDE])
    empty.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "d.bin"), ("offset", "0"), ("length", "0")):
        empty.external_data.add(key=key, value=value)
    model.graph.initializer.append(empty)
    path.write_bytes(model.SerializeToString())
    (tmp_path / "d.bin").write_bytes(bytes(64))
    view = load(path)
    none = list(view.graph.initializers)[-1]
    assert view.constant(none).shape == (0, WIDE)
    save(view, tmp_path / "out.onnx")
    (*_, back) = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert numpy_helper.to_array(back).shape == (0, WIDE)
    save(load(tmp_path / "out.onnx"), tmp_path / "again.onnx", external=True)
    (*_, back) = onnx.load(tmp_path / "again.onnx").graph.initializer
    assert numpy_helper.to_array(back).shape == (0, WIDE)


def test_small_external_tensors_of_shared_bytes_come_back(tmp_path):
    tensor = helper.make_tensor("w", TensorProto.INT4, [5], [-8, 7, 1, 0, -1])
    model = parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g () => (int4[5] y) { y = Identity(w) }'
    )
    shell = model.graph.initializer.add(name="w", data_type=TensorProto.INT4, dims=[5])
    shell.data_location = TensorProto.EXTERNAL
    packed = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    for key, value in (("location", "d.bin"), ("offset", "2"), ("length", str(len(packed)))):
        shell.external_data.add(key=key, value=value)
    (tmp_path / "d.bin").write_bytes(b"\xff\xff" + packed + b"\xff")
    view = from_proto(model, tmp_path)
    (w,) = view.graph.initializers
    assert view.constant(w).astype(int).tolist() == [-8, 7, 1, 0, -1]
    (back,) = to_proto(view).graph.initializer
    assert numpy_helper.to_array(back).astype(int).tolist() == [-8, 7, 1, 0, -1]
