"""Files that are no models, are cut short, or of versions to come: two lines say what is wrong."""

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from graphs import product
from refused_files import (
    changed,
    refused,
    said,
)

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
    done = subprocess.run(command, capture_output=True, timeout=60)
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
