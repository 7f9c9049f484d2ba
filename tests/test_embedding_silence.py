"""Nothing is printed, and nothing of the process changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from models_by_text import left

# in a process of its own: writes down how each run ended, and what is not as it was before
SILENT = '''
import gc, json, logging, os, random, signal, sys, threading, warnings
import numpy as np, onnx
from onnx_compress import compress, plan
from onnx_compress.ir.errors import CompressError
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant
from models_by_text import build, draw, embedding, two_layers

warnings.simplefilter("always")
warnings.simplefilter("ignore", ResourceWarning)

def state():
    gc.collect()
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = [x for x in loggers if getattr(x, "level", 0) or getattr(x, "handlers", 0)]
    return {
        "logging": [(x.name, x.level, x.handlers[:], x.disabled) for x in loggers],
        "warnings": (warnings.filters[:], warnings.showwarning),
        "numpy": (np.geterr(), np.get_printoptions(), np.random.get_state()[1].tolist()),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "environment": dict(os.environ),
        "process": (os.getcwd(), sys.path[:], sys.getrecursionlimit(), sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, threading.excepthook, gc.isenabled(), gc.get_threshold()),
        "random": random.getstate(),
        "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "threads": [x.name for x in threading.enumerate() if "onnx-compress" not in x.name],
        "temporary": os.listdir(os.environ["TMPDIR"]),
    }

def product(factor=1, out="float[N,64] y"):
    body = f"g (float[N,96] x) => ({out}) {{ h = Add (x, c)  y = MatMul (h, W) }}"
    return build(body, W=draw(96, 64).clip(-1, 1) * np.float32(factor), c=draw(96))

def node(op, domain):
    proto = two_layers()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = op, domain
    return proto

def version(ir, opset):
    return build("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", opset=opset, ir=ir)

endless = build("""g (float[2] x) => (float[2] y) { on = Constant <value = bool {1}> ()
    y = Loop (, on, x) <body = l (int64 k, bool go, float[2] at)
    => (bool still, float[2] next) { still = Identity (go)  next = Neg (at) }> }""")
huge = build("g (float[4] x) => (float[?,?] y) { w = ConstantOfShape (s)  y = Add (w, x) }",
    s=np.int64([10**6, 10**6]))
shaped = build("g (float[N,96] x, int64[2] s) => (float[?,?] y) { y = Reshape (x, s) }")
far = np.zeros((8, 3, 5), "int64")
far[5] = 200
data = {"x": draw(8, 96)}
onnx.save(two_layers(), "in.onnx")
with open("garbage.onnx", "wb") as file:
    file.write(b"garbage")
ended = {}

def run(name, *arguments, function=compress, **options):
    try:
        function(*arguments, **options)
        ended[name] = "fine"
    except CompressError as error:
        ended[name] = type(error).__name__

def run_all():
    run("files", "in.onnx", "prune,quant", data, "out.onnx", layers=True)
    run("drawn", "in.onnx")
    run("pieces", two_layers(), "quant", data, memory=1000)
    run("plan", two_layers(), function=plan)
    for factor in (np.nan, np.inf, 1e-42, 1e6, 3e38, 0):
        for item in (Quant(bits=8), Quant(bits=16), Prune(sparsity=0.5), Fold()):
            run(f"{factor}, {item}", product(factor), item, data)
            run(f"{factor}, {item} alone", product(factor), function=item)
    run("index", embedding()[0], "quant", {"i": far})
    run("operator", node("Nothing", ""))
    run("domain", node("Relu", "a.b"))
    run("IR", version(99, 17))
    run("operator set", version(8, 999))
    run("wrong width", product(out="float[N,63] y"), "quant")
    run("wrong rank", product(out="float[N,64,2] y"), "quant")
    run("garbage", "garbage.onnx")
    run("missing", "missing.onnx")
    run("huge", huge, "quant")
    run("shape", shaped, "quant")
    run("endless", endless, "fold", timeout=0.2)

if __name__ == "__main__":
    run_all()  # what is loaded lazily stays
    before = state()
    run_all()
    after = state()
    changed = {key: str(after[key]) for key in before if after[key] != before[key]}
    with open("done.json", "w") as file:
        json.dump([ended, changed], file)
'''


def test_nothing_is_printed_and_nothing_of_the_process_changes(tmp_path):
    """Neither by Python nor by the runtime; and no thread keeps the process from ending."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    ended, changed = json.loads((tmp_path / "done.json").read_text())
    assert changed == {}
    assert {name for name, how in ended.items() if how == "fine"} >= {"files", "drawn", "pieces"}
    assert ended["garbage"] == ended["missing"] == "LoadError"
    assert ended["endless"] == "TooLongError"
    assert ended["operator"] == ended["domain"] == "InvalidError"
    session = "temporary/.ses"  # of the runtime's telemetry, written when it is imported
    assert left(tmp_path) - {session} == {
        "in.onnx",
        "out.onnx",
        "garbage.onnx",
        "done.json",
        "temporary",
    }
