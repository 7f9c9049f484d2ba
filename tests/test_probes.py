"""Metadata: 21 places where a model holds some, written again, cleaned up and quantized."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress import compress
from onnx_compress.ir.graph import from_proto, load, save, to_proto
from onnx_compress.ir.graph.wire import encoded
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold

from backend_models import outputs, session
from graphs import WIDE, everything, product, run, weight


def probed() -> ModelProto:
    """y = Relu(x @ w) + b, with an Identity to clean up, and something in all 21 places."""
    model = parse_model(
        f"""<ir_version: 11, opset_import: ["" : 21, "com.microsoft" : 1, "never.used" : 3],
            producer_name: "somebody", domain: "a.b", model_version: 7, doc_string: "model doc",
            metadata_props: ["names" : "{{0: 'cat'}}", "" : ""]>
        g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) <float[N,{WIDE}] a> {{
            h = MatMul(x, w)
            a = Relu(h)
            i = Identity(a)
            y = Add(i, b)
        }}"""
    )
    graph = model.graph
    for name, array in (
        ("w", weight()), ("b", np.ones(1, np.float32)), ("scale", np.float32(0.5))
    ):  # fmt: skip
        graph.initializer.append(numpy_helper.from_array(array, name))
    graph.doc_string = "graph doc"
    graph.metadata_props.add(key="where", value="graph")
    relu = next(node for node in graph.node if node.op_type == "Relu")
    relu.name, relu.doc_string = "block.0/act", "node doc"
    relu.metadata_props.add(key="namespace", value="block.0")
    graph.value_info[0].doc_string = "activation doc"
    graph.value_info[0].metadata_props.add(key="kind", value="activation")
    graph.input[0].doc_string = "input doc"
    graph.initializer[1].doc_string = "bias doc"
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    note = graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    training = model.training_info.add()
    training.algorithm.CopyFrom(
        GraphProto(
            name="step",
            node=[helper.make_node("Neg", ["b"], ["less"])],
            output=[helper.make_tensor_value_info("less", TensorProto.FLOAT, [1])],
        )
    )
    training.update_binding.add(key="b", value="less")
    return model


def _act(model: ModelProto) -> Any:
    return next(node for node in model.graph.node if node.op_type == "Relu")


def _info(model: ModelProto) -> Any:
    return next((info for info in model.graph.value_info if info.name == "a"), None)


def _tensor(model: ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _props(entries: Any) -> list[tuple[str, str]]:
    return [(entry.key, entry.value) for entry in entries if entry.key != "onnx_compress.sha256"]


PROBES: dict[str, Callable[[ModelProto], Any]] = {
    "model doc_string": lambda m: m.doc_string,
    "model producer_name": lambda m: m.producer_name,
    "model domain": lambda m: m.domain,
    "model model_version": lambda m: m.model_version,
    "model ir_version": lambda m: m.ir_version,
    "model metadata_props": lambda m: _props(m.metadata_props),
    "model opset_import": lambda m: [(entry.domain, entry.version) for entry in m.opset_import],
    "graph doc_string": lambda m: m.graph.doc_string,
    "graph metadata_props": lambda m: _props(m.graph.metadata_props),
    "node name": lambda m: _act(m).name,
    "node doc_string": lambda m: _act(m).doc_string,
    "node metadata_props": lambda m: _props(_act(m).metadata_props),
    "value_info": lambda m: _info(m) and _info(m).type.SerializeToString(),
    "value_info metadata_props": lambda m: _info(m) and _props(_info(m).metadata_props),
    "value_info doc_string": lambda m: _info(m) and _info(m).doc_string,
    "input doc_string": lambda m: m.graph.input[0].doc_string,
    "initializer doc_string": lambda m: _tensor(m, "b").doc_string,
    "dimension denotation": lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].denotation,
    "type denotation": lambda m: m.graph.input[0].type.denotation,
    "quantization_annotation": lambda m: [
        (note.tensor_name, _props(note.quant_parameter_tensor_names))
        for note in m.graph.quantization_annotation
    ],
    "training_info": lambda m: [entry.SerializeToString() for entry in m.training_info],
}


def _written(model: ModelProto, folder: Any) -> ModelProto:
    (folder / "in.onnx").write_bytes(model.SerializeToString())
    save(load(folder / "in.onnx"), folder / "out.onnx")
    return ModelProto.FromString((folder / "out.onnx").read_bytes())


def _folded(model: ModelProto, _: Any) -> ModelProto:
    view = from_proto(model)
    assert Fold().run(view, Context(targets.host(), {})).modified
    out = to_proto(view)
    assert not any(node.op_type == "Identity" for node in out.graph.node)
    return out


def _quantized(model: ModelProto, _: Any) -> ModelProto:
    out = compress(model, "quant(bits=8)", measure=False).model
    assert "w" not in {tensor.name for tensor in out.graph.initializer}
    return out


@pytest.mark.parametrize("change", [_written, _folded, _quantized])
@pytest.mark.parametrize("probe", PROBES)
def test_what_a_model_says_of_itself_is_still_there(probe, change, tmp_path):
    look = PROBES[probe]
    before = look(probed())
    assert before
    assert look(change(probed(), tmp_path)) == before


def test_a_quantized_model_gains_one_key():
    keys = [entry.key for entry in _quantized(probed(), None).metadata_props]
    assert keys == [*(entry.key for entry in probed().metadata_props), "onnx_compress.sha256"]


@pytest.mark.parametrize("change", [_folded, _quantized])
def test_what_training_refers_to_by_name_is_still_there(change):
    model = probed()
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "rate"))
    step = model.training_info[0].algorithm
    step.node[0].CopyFrom(helper.make_node("Mul", ["b", "rate"], ["less"]))
    out = change(model, None)
    assert {"b", "rate"} <= {tensor.name for tensor in out.graph.initializer}


# ------------------------------------------------------------------ fields of newer formats

# one of each wire type that the format uses
NEWER = b"".join(
    encoded(2000 << 3 | kind) + data
    for kind, data in ((0, encoded(300)), (1, b"8 bytes."), (2, b"\x05later"), (5, b"four"))
)
PLACES: dict[str, Callable[[ModelProto], Any]] = {
    "model": lambda m: m,
    "operator set": lambda m: m.opset_import[0],
    "graph": lambda m: m.graph,
    "node": lambda m: _first(m, "Concat"),
    "node with a body": lambda m: _first(m, "If"),
    "attribute": lambda m: _first(m, "Concat").attribute[0],
    "attribute with a body": lambda m: _first(m, "If").attribute[0],
    "attribute with a tensor": lambda m: _first(m, "Constant").attribute[0],
    "body": lambda m: _first(m, "If").attribute[0].g,
    "node of a body": lambda m: _first(m, "If").attribute[0].g.node[0],
    "small tensor": lambda m: _tensor(m, "i4"),
    "large tensor": lambda m: _tensor(m, "large"),
    "large tensor of a node": lambda m: _first(m, "Constant").attribute[0].t,
    "sparse tensor": lambda m: m.graph.sparse_initializer[0],
    "input": lambda m: m.graph.input[0],
    "output": lambda m: m.graph.output[0],
    "type": lambda m: m.graph.input[0].type,
    "annotation": lambda m: m.graph.quantization_annotation[0],
    "function": lambda m: m.functions[0],
    "node of a function": lambda m: m.functions[0].node[0],
}


def _first(model: ModelProto, op: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == op)


def _newer(place: str) -> ModelProto:
    model = everything()
    large = numpy_helper.from_array(weight())
    model.graph.node.insert(0, helper.make_node("Constant", [], ["large too"], value=large))
    PLACES[place](model).MergeFromString(NEWER)
    assert NEWER in model.SerializeToString()
    return model


def _renamed(model: ModelProto) -> ModelProto:
    """With other names for all that nodes make, and other numbers in two constants."""
    view = from_proto(model)
    made = [value for node in view.nodes() for value in node.outputs if value is not None]
    for number, value in enumerate(made):
        if value not in view.outputs():
            view.rename(value, f"new {number}")
    for node in view.nodes():
        view.set_attribute(node, "another", 1)
    return to_proto(view)


def _beside(model: ModelProto, folder: Any) -> ModelProto:
    save(from_proto(model), folder / "m.onnx", external=True)
    assert len(list(folder.iterdir())) == 2
    return to_proto(load(folder / "m.onnx"))


@pytest.mark.parametrize("change", [lambda m, _: to_proto(from_proto(m)), _written, _beside])
@pytest.mark.parametrize("place", PLACES)
def test_fields_of_newer_formats_survive(place, change, tmp_path):
    out = change(_newer(place), tmp_path)
    assert NEWER in PLACES[place](out).SerializeToString()
    assert out == _newer(place)


@pytest.mark.parametrize("place", PLACES)
def test_fields_of_newer_formats_survive_edits(place):
    assert NEWER in PLACES[place](_renamed(_newer(place))).SerializeToString()


# ------------------------------------------------------------------------- what formats hold


def test_functions_of_one_name_are_told_apart_by_their_overload():
    model = parse_model(
        """<ir_version: 11, opset_import: ["" : 21, "l" : 1]>
        g (float[2] x) => (float[2] y) { h = l.f:up(x)  i = Identity(h)  y = l.f:down(i) }
        <domain: "l", overload: "up", opset_import: ["" : 21]> f (p) => (q) { q = Ceil(p) }
        <domain: "l", overload: "down", opset_import: ["" : 21]> f (p) => (q) { q = Neg(p) }"""
    )
    assert [function.overload for function in model.functions] == ["up", "down"]
    for function in model.functions:
        function.metadata_props.add(key="of", value=function.overload)
        function.value_info.add(name="p", doc_string="doc")
    assert to_proto(from_proto(model)) == model
    out = _folded(model, None)
    assert out.functions == model.functions
    assert [node.overload for node in out.graph.node] == ["up", "down"]


def test_a_default_that_callers_may_override_is_left_to_them():
    model = parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float[2] k) => (float[2] y)
        <float[2] k = {1, 2}, float[2] l = {1, 2}>
        { i = Identity(x)  m = Add(k, l)  n = Mul(m, l)  y = Add(i, n) }"""
    )
    for out in (to_proto(from_proto(model)), _folded(model, None)):
        assert [info.name for info in out.graph.input] == ["x", "k"]
        x, k = np.float32([0, 0]), np.float32([5, 5])
        assert run(out, x=x)[0].tolist() == [2, 8]
        assert run(out, x=x, k=k)[0].tolist() == [6, 14]


def test_a_weight_of_the_graph_and_of_two_branches_is_kept_once():
    model = parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,{WIDE}] x, bool c) => (float[1,{WIDE}] y) {{
            i = Identity(x)
            h = MatMul(i, w)
            y = If (c) <then_branch = t () => (float[1,{WIDE}] r) {{ r = MatMul(h, w) }},
                        else_branch = e () => (float[1,{WIDE}] r) {{ r = Mul(h, w) }}>
        }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(weight(), "w"))
    for out in (to_proto(from_proto(model)), _folded(model, None)):
        assert out.SerializeToString().count(weight().tobytes()) == 1
        assert [tensor.name for tensor in out.graph.initializer] == ["w"]


LOW = """INT4 UINT4 INT2 UINT2 FLOAT4E2M1 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ
    FLOAT8E8M0 BFLOAT16""".split()


@pytest.mark.parametrize("copies", [1, 64])  # stays in the proto, or is kept elsewhere
@pytest.mark.parametrize("element", [name for name in LOW if hasattr(TensorProto, name)])
def test_every_number_of_the_small_types_survives_untouched_and_edited(element, copies):
    kind = getattr(TensorProto, element)
    raw = bytes(range(256)) * copies
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(element, 8)
    count = len(raw) * 8 // (16 if element == "BFLOAT16" else bits)
    model = product()
    model.graph.initializer.add(name="k", data_type=kind, dims=[count], raw_data=raw)
    view = from_proto(model)
    assert to_proto(view) == model
    (k,) = (value for value in view.graph.initializers if value.name == "k")
    array = view.constant(k)
    assert array.dtype == helper.tensor_dtype_to_np_dtype(kind)
    for _ in range(2):  # turned, and turned back
        view.set_constant(k, view.constant(k)[::-1])
        tensor = _tensor(to_proto(view), "k")
        assert (tensor.data_type, list(tensor.dims)) == (kind, [count])
        array = array[::-1]
        assert numpy_helper.to_array(tensor).tobytes() == array.tobytes()
    assert tensor.raw_data == raw


def test_sparse_numbers_kept_as_bytes_are_read():
    model = product()
    sparse = model.graph.sparse_initializer.add(dims=[2, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.float32([7, 8]), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.int64([1, 5])))
    view = from_proto(model)
    (s,) = (value for value in view.graph.initializers if value.name == "s")
    assert view.constant(s).tolist() == [[0, 7, 0], [0, 0, 8]]
    assert to_proto(view) == model


def test_inputs_that_are_no_tensors_keep_their_types_through_a_clean_up():
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
        g (map(string, float) m, seq(float[2]) s, optional(float[2]) o)
            => (float[1,3] y, float[2] z, float[2] p) {
            d = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "b", "c"]>(m)
            y = Identity(d)
            at = Constant<value = int64 {1}>()
            i = Identity(s)
            z = SequenceAt(i, at)
            j = Identity(o)
            p = OptionalGetElement(j)
        }"""
    )
    assert to_proto(from_proto(model)) == model
    out = _folded(model, None)
    given = {"m": {"b": 2.0}, "s": [np.zeros(2, np.float32), np.ones(2, np.float32)]}
    given["o"] = np.float32([3, 4])
    for proto in (model, out):
        assert [o.tolist() for o in outputs(session(proto.SerializeToString(), True), given)] == [
            [[0, 2, 0]], [1, 1], [3, 4]
        ]  # fmt: skip
    assert out.graph.input == model.graph.input


def test_the_long_name_of_the_default_domain_is_kept():
    model = product()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    out = compress(model, "quant(bits=8)", measure=False).model
    assert "ai.onnx" in {entry.domain for entry in out.opset_import}
    assert "" not in {entry.domain for entry in out.opset_import}
    x = np.random.default_rng(0).standard_normal((1, WIDE)).astype(np.float32)
    np.testing.assert_allclose(run(out, x=x)[0], run(model, x=x)[0], atol=5)
