"""Small convolutional models, their data, and what quant makes of them."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

from models_by_text import build, run

ALWAYS = dataclasses.replace(
    targets.load("avx2"), convolutions={"static": [[1, 1, 1, 4.0]]}, conversion=0.01, start=0
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def weights(**shapes):
    return {
        name: draw(*shape, seed=at) / np.float32(np.sqrt(np.prod(shape[1:])))
        for at, (name, shape) in enumerate(shapes.items())
    }


def feeds(*shape, count=8):
    return [{"x": draw(*shape, seed=100 + at)} for at in range(count)]


def quant(proto, fit, target=ALWAYS, exclude=(), **options):
    model = from_proto(proto)
    context = Context(target, fit[0], fit, exclude=exclude)
    report = Quant(bits=8, **options).run(model, context)
    invariants.check(model)
    return to_proto(model), report


def kernels(proto, feed, folder):
    """What is run, with names, types and shapes."""
    session_options = ort.SessionOptions()
    session_options.enable_profiling = True
    session_options.profile_file_prefix = str(folder / "p")
    session_options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), session_options)
    session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    return [e["args"] for e in ran]


def executed(proto, feed, folder):
    return Counter(each["op_name"] for each in kernels(proto, feed, folder))


def error(proto, small, fit):
    pairs = [(run(proto, feed)[0], run(small, feed)[0]) for feed in fit]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(noise / sum(float((a**2).sum()) for a, _ in pairs)))


RESIDUAL = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    d = Conv<pads=[1,1,1,1], group=64>(r, w2)
    e = Clip(d, low, high)
    p = Conv(e, w3)
    s = Add(p, r)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
    c = Concat<axis=1>(m, m)
    z = Sigmoid(c)
    v = Mul(c, z)
    g = GlobalAveragePool(v)
    y = Conv(g, w4)
}"""
NUMBERS = {
    **weights(w1=(64, 8, 3, 3), w2=(64, 1, 3, 3), w3=(64, 64, 1, 1), w4=(10, 128, 1, 1)),
    "b1": draw(64, seed=9),
    "low": np.float32(0),
    "high": np.float32(6),
}


def residual():
    return build(RESIDUAL, **NUMBERS)
