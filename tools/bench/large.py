"""Models larger than memory: seconds and peak memory of loading, saving and passes.

python -m onnx_compress.bench.large FOLDER --gigabytes 4 --passes "quant(bits=8)" "quant(bits=16)"

The model is made from a seed: an embedding, then feed-forward blocks with residuals. Each step is a
process of its own; its peak is that of the process, less what it had once all was imported.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

_WIDTH, _INNER, _WORDS = 2048, 8192, 16384

_STEP = """
import resource, sys, time
import llvmlite.binding, onnx.reference, onnxruntime, rich.console
import onnx_compress.cli
from onnx_compress.ir.graph import load, save
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
source, out, passes = sys.argv[1:]
if passes:
    code = onnx_compress.cli.main([source, out, "--passes", passes])
else:
    code = int(save(load(source), out, external=True) == 0)
print(f"{passes or 'load, save'}: exit {code}, {time.perf_counter() - start:.0f} s, "
      f"peak {peak() - before:.0f} MB after imports ({before:.0f} MB)")
sys.exit(code)
"""


def make(folder: Path, gigabytes: float, seed: int) -> Path:
    """Write the model; one tensor is in memory at a time."""
    rng = np.random.default_rng(seed)
    blocks = max(1, round((gigabytes * 2**30 / 4 / _WIDTH - _WORDS) / (2 * _INNER)))
    shapes = {"embedding": (_WORDS, _WIDTH)}
    nodes = [helper.make_node("Gather", ["embedding", "ids"], ["h0"])]
    for n in range(blocks):
        shapes |= {f"up{n}": (_WIDTH, _INNER), f"down{n}": (_INNER, _WIDTH)}
        nodes += [
            helper.make_node("LayerNormalization", [f"h{n}", "ones"], [f"n{n}"], name=f"norm{n}"),
            helper.make_node("MatMul", [f"n{n}", f"up{n}"], [f"u{n}"], name=f"up{n}"),
            helper.make_node("Relu", [f"u{n}"], [f"r{n}"], name=f"relu{n}"),
            helper.make_node("MatMul", [f"r{n}", f"down{n}"], [f"d{n}"], name=f"down{n}"),
            helper.make_node("Add", [f"h{n}", f"d{n}"], [f"h{n + 1}"], name=f"add{n}"),
        ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [
            helper.make_tensor_value_info(
                f"h{blocks}", TensorProto.FLOAT, ["batch", "length", _WIDTH]
            )
        ],
        [helper.make_tensor("ones", TensorProto.FLOAT, [_WIDTH], [1.0] * _WIDTH)],
    )
    with open(folder / "large.onnx.data", "wb") as file:
        for name, shape in shapes.items():
            tensor = graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": file.name.rpartition("/")[2], "offset": str(file.tell())}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
            array = rng.standard_normal(shape, np.float32)
            array *= np.float32(shape[0] ** -0.5)
            tensor.external_data.add(key="length", value=str(array.nbytes))
            array.tofile(file)
    path = folder / "large.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def main() -> None:
    """Make the model and run each step on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--passes", nargs="*", default=["", "quant(bits=8)", "quant(bits=16)"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    source = make(options.folder, options.gigabytes, options.seed)
    size = sum(path.stat().st_size for path in (source, options.folder / "large.onnx.data"))
    print(f"made {size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s", flush=True)
    out = options.folder / "out.onnx"
    for passes in options.passes:
        subprocess.run([sys.executable, "-c", _STEP, str(source), str(out), passes], check=True)
        for path in options.folder.glob("out.onnx*"):
            path.unlink()


if __name__ == "__main__":
    main()
