"""The command line on files that are no models, or broken ones: two lines, and nothing changes."""

import contextlib
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.cli import main
from onnx_compress.ir.graph.wire import encoded

from graphs import WIDE, product, run, weight

Content = bytes | ModelProto | None


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too, with its bytes."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def said(folder: Path, content: Content, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command on this file."""
    source = folder / "in.onnx"
    if content is not None:
        source.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    before = listing(folder)
    errors, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
        code = main([str(source), str(folder / "out.onnx"), *arguments])
    if code:
        assert printed.getvalue() == ""
        assert listing(folder) == before
    return code, errors.getvalue().splitlines()


def refused(folder: Path, content: Content, *words: str, arguments: tuple[str, ...] = ()) -> str:
    """The hint; the command must end with the code for models and say these expressions."""
    code, lines = said(folder, content, *arguments)
    assert code == 3, lines
    error, hint = lines
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    for word in words:
        assert re.search(word, error, re.IGNORECASE)
    assert "README" not in hint  # that is what is said where nobody thought of a hint
    assert "--calib" not in hint  # no data can help
    return hint


# ------------------------------------------------------------------------------- no models at all


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("model.txt", "no model " * 100)
    return out.getvalue()


def numbers() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.zeros(100))
    return out.getvalue()


PNG = "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
OTHER = {
    "text": b"This is a text.\n" * 40,
    "zip": zipped(),
    "npz": numbers(),
    "png": bytes.fromhex(PNG),
    "pickle": pickle.dumps({"weight": np.zeros(100)}),
    "json": json.dumps({"graph": {"node": [], "output": ["y"]}}).encode(),
    "pointer of git": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "utf-16": "a text of two bytes a letter".encode("utf-16"),
    "text of a model": onnx.printer.to_text(product()).encode()[:1000],
}


@pytest.mark.parametrize("name", OTHER)
def test_other_formats_are_no_onnx_models(tmp_path, name):
    hint = refused(tmp_path, OTHER[name], "in.onnx", "not an ONNX model")
    assert "format" in hint


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    refused(tmp_path, b"", "in.onnx", "empty")


PLACES = {
    "a folder": (lambda path: path.mkdir(), "directory"),
    "nothing": (lambda path: None, "no such file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "links"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_without_a_file_are_named(tmp_path, name):
    make, word = PLACES[name]
    make(tmp_path / "in.onnx")
    assert "path" in refused(tmp_path, None, "in.onnx", word)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "in.onnx"
    path.touch(mode=0)
    refused(tmp_path, None, "in.onnx", "permission")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_plain_file_is_not_waited_for(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if kind == "pipe":
        os.mkfifo("in.onnx")
    else:
        socket.socket(socket.AF_UNIX).bind("in.onnx")
    command = [sys.executable, "-m", "onnx_compress", "in.onnx", "out.onnx"]
    done = subprocess.run(command, capture_output=True, timeout=5)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 2


# ------------------------------------------------------------------------------------- cut short

AROUND = 400  # bytes at both ends, where most fields are


@given(st.data())
def test_a_model_cut_anywhere_is_refused(tmp_path_factory, digits, data):
    whole = digits.read_bytes()
    size = len(whole)
    kinds = [(0, AROUND), (0, size - 1), (size - AROUND, size - 1)]
    cut = data.draw(st.one_of(*(st.integers(low, high) for low, high in kinds)))
    folder = tmp_path_factory.mktemp("cut")
    try:
        rest = ModelProto.FromString(whole[:cut])
        complete = bool(rest.graph.output and rest.opset_import)
    except Exception:  # protobuf has a class of its own for it
        complete = False
    if not complete:
        refused(folder, whole[:cut], "in.onnx")


def changed(change) -> ModelProto:
    model = product()
    change(model)
    return model


def without(*fields: str) -> ModelProto:
    return changed(lambda model: [model.graph.ClearField(field) for field in fields])


INCOMPLETE = {
    "no nodes": (without("node"), "y"),
    "no outputs": (without("output"), "no graph with outputs"),
    "nothing in the graph": (without("node", "input", "output"), "no graph with outputs"),
    "no graph": (changed(lambda model: model.ClearField("graph")), "no graph"),
    "no operator set": (changed(lambda model: model.ClearField("opset_import")), "operator set"),
    "no version": (changed(lambda model: model.ClearField("ir_version")), "IR version"),
    "no initializers": (without("initializer"), "w"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_what_is_missing_is_said(tmp_path, name):
    proto, *words = INCOMPLETE[name]
    refused(tmp_path, proto, *words)


def test_missing_external_data_are_named(tmp_path):
    proto = product()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    refused(tmp_path, proto, "w: ", "weights.bin", "missing")


# -------------------------------------------------------------------------------- versions, names


def test_an_operator_set_of_the_future_is_named_with_the_newest_that_works(tmp_path):
    proto = changed(lambda model: setattr(model.opset_import[0], "version", 99))
    refused(tmp_path, proto, r"opset 99 .*\b[23]\d\b")


def test_a_format_of_the_future_is_named_with_the_newest_that_works(tmp_path):
    proto = changed(lambda model: setattr(model, "ir_version", 99))
    refused(tmp_path, proto, r"IR version: 99\b.*\b1\d\b")


@pytest.mark.parametrize("domain", ["other", "com.microsoft"])
def test_an_operator_set_of_another_domain_alone_is_no_failure_of_a_pass(tmp_path, domain):
    proto = changed(lambda model: setattr(model.opset_import[0], "domain", domain))
    code, lines = said(tmp_path, proto, "--passes", "quant(bits=8)", "--quiet")
    assert code in (0, 3), lines


def test_text_that_is_no_utf8_is_named(tmp_path):
    whole = changed(lambda model: setattr(model.graph, "name", "GRAPH")).SerializeToString()
    for old, new in ((b"GRAPH", b"GR\xffPH"), (b"MatMul", b"Mat\xfful"), (b"\x01h", b"\x01\xff")):
        assert old in whole
        refused(tmp_path, whole.replace(old, new), "not UTF-8")


# ----------------------------------------------------------------------------------- wrong numbers


def holding(tensor: TensorProto, place: str) -> ModelProto:
    """A model with this weight, 64 x 64."""
    lines = "Wf = Cast<to=1>(W)  y = MatMul(x, Wf)"
    if place == "branch":
        yes = "t () => (float[N,64] r) { r = Relu(x) }"
        no = f"e () => (float[N,64] r) {{ {lines.replace('y =', 'r =')} }}"
        lines = f"y = If(c) <then_branch = {yes}, else_branch = {no}>"
    proto = parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> '
        f"g (float[N,64] x, bool c) => (float[N,64] y) {{ {lines} }}"
    )
    if place == "initializer":
        proto.graph.initializer.append(tensor)
        return proto
    graph = proto.graph.node[0].attribute[1].g if place == "branch" else proto.graph
    graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    return proto


BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "DOUBLE": 8, "INT8": 1, "INT64": 8, "INT4": 0.5}


@pytest.mark.parametrize("place", ["initializer", "node", "branch"])
@pytest.mark.parametrize("kind", BYTES)
def test_data_that_do_not_fit_their_shape_are_named(tmp_path, kind, place):
    size = int(64 * 64 * BYTES[kind])
    for wrong in (0, size - 1, size // 2, size + 1, size + 100):
        element = getattr(TensorProto, kind)
        tensor = TensorProto(name="W", data_type=element, dims=[64, 64], raw_data=bytes(wrong))
        sizes = (rf"\b{wrong}\b", rf"\b{size}\b") if wrong else ()
        refused(tmp_path, holding(tensor, place), r"\bW\b", *sizes)


def test_data_that_do_not_fit_are_no_fault_of_the_samples_where_a_model_runs_in_pieces(tmp_path):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[64, 64], raw_data=bytes(100))
    refused(tmp_path, holding(tensor, "initializer"), "W", arguments=("--memory", "1KB"))


SHAPES = {
    "beyond 2^63": [2**32, 2**32],
    "beyond 2^64, zero modulo": [2**33, 2**33, 4],
    "beyond 2^64, right modulo": [2**62 + 1024, 4],
    "negative": [-64, -64],
    "one negative": [-1, 64],
    "huge": [64, 10**12],
}


@pytest.mark.parametrize("data", [b"", bytes(64 * 64 * 4)], ids=["no data", "data"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("place", ["initializer", "node"])
def test_sizes_that_cannot_be_are_errors_of_the_model(tmp_path, place, name, data):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=SHAPES[name], raw_data=data)
    refused(tmp_path, holding(tensor, place))


@pytest.mark.parametrize("kind", [0, 77])
def test_an_unknown_type_of_numbers_is_named_with_the_weight(tmp_path, kind):
    tensor = TensorProto(name="W", data_type=kind, dims=[64, 64], raw_data=bytes(64 * 64 * 4))
    refused(tmp_path, holding(tensor, "initializer"), "W: ")


# --------------------------------------------------------------------------------- broken graphs


def field(number: int, content: bytes) -> bytes:
    return encoded(number << 3 | 2) + encoded(len(content)) + content


def typed(name: str, kind: int = TensorProto.FLOAT, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape or None)


def nested(levels: int) -> bytes:
    """If in If, byte by byte: protobuf refuses to build what is deeper than a file may be."""

    def graph(node: bytes, name: str) -> bytes:
        return field(1, node) + field(2, b"g") + field(12, typed(name).SerializeToString())

    inner = graph(helper.make_node("Relu", ["x"], ["y0"]).SerializeToString(), "y0")
    for level in range(1, levels + 1):
        other = graph(
            helper.make_node("Neg", ["x"], [f"e{level}"]).SerializeToString(), f"e{level}"
        )
        node = field(1, b"c") + field(2, f"y{level}".encode()) + field(4, b"If")
        for name, body in ((b"then_branch", inner), (b"else_branch", other)):
            node += field(5, field(1, name) + field(6, body) + encoded(20 << 3) + encoded(5))
        inner = graph(node, f"y{level}")
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inner += field(11, condition.SerializeToString()) + field(
        11, typed("x", 1, 4).SerializeToString()
    )
    opset = field(8, helper.make_opsetid("", 17).SerializeToString())
    return encoded(1 << 3) + encoded(8) + opset + field(7, inner)


def test_twenty_branches_in_each_other_are_fine(tmp_path):
    code, lines = said(tmp_path, nested(20), "--quiet")
    assert code == 0, lines
    x = np.float32([-1, 2, -3, 4])
    for condition, expected in ((True, np.maximum(x, 0)), (False, -x)):
        (y,) = run(onnx.load(tmp_path / "out.onnx"), x=x, c=np.array(condition))
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("levels", [40, 200])
def test_branches_deeper_than_a_file_may_hold_are_said_to_be_too_deep(tmp_path, levels):
    assert "cut short" not in refused(tmp_path, nested(levels), "nested")


CYCLES = {
    "two nodes": "a = Add(x, b)  b = Relu(a)  y = Relu(b)",
    "itself": "y = Add(x, y)",
    "through a branch": "h = If(c) <then_branch = t () => (float[4] r) { r = Add(x, y) },"
    " else_branch = e () => (float[4] s) { s = Neg(x) }>  y = Relu(h)",
}


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_are_named(tmp_path, name):
    text = "g (float[4] x, bool c) => (float[4] y) { " + CYCLES[name] + " }"
    refused(tmp_path, parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text), "cycle")


@pytest.mark.parametrize("value", ["one", 1.0, [1, 2], numpy_helper.from_array(weight())], ids=type)
def test_an_attribute_of_the_wrong_type_is_named(tmp_path, value):
    proto = parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,{WIDE}] x, float[{WIDE},{WIDE}] w) => (float[N,{WIDE}] y) {{ y = Gemm(x, w) }}"""
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("transB", value))
    refused(tmp_path, proto, "transB", "type")


def test_an_operator_that_does_not_exist_is_named(tmp_path):
    proto = changed(lambda model: setattr(model.graph.node[0], "op_type", "Nonsense"))
    refused(tmp_path, proto, "Nonsense")
