"""Libraries of operators: loaded only when they are given, and then the model is compressed.

The library is built here, out of the few functions of ONNX Runtime's C interface that it needs,
by their places in its table.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from onnx_compress import compress
from onnx_compress.cli import main
from onnx_compress.ir.errors import InvalidError, LoadError
from onnx_compress.ir.graph import from_proto, save, to_proto
from onnx_compress.ir.runtime import limits
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quant import Quant

from graphs import WIDE, parsed, product, weight

TWICE = r"""
#include <stdint.h>
#include <stdio.h>

typedef struct { const void *const *(*table)(uint32_t); } Base;  /* OrtApiBase */
static const void *const *api;

typedef struct Op {  /* OrtCustomOp, version 1 */
    uint32_t version;
    void *(*create)(const struct Op *, const void *, const void *);
    const char *(*name)(const struct Op *);
    const char *(*provider)(const struct Op *);
    int (*input)(const struct Op *, size_t);
    size_t (*inputs)(const struct Op *);
    int (*output)(const struct Op *, size_t);
    size_t (*outputs)(const struct Op *);
    void (*compute)(void *, void *);
    void (*destroy)(void *);
    size_t (*traits[7])(const struct Op *);  /* characteristics, memory, variadic ones */
    void *newer[32];
} Op;

static void *create(const Op *op, const void *a, const void *info) { return (void *)op; }
static const char *name(const Op *op) { return "Twice"; }
static const char *provider(const Op *op) { return 0; }
static int type(const Op *op, size_t at) { return 1; }  /* FLOAT */
static size_t one(const Op *op) { return 1; }
static size_t zero(const Op *op) { return 0; }  /* required; default memory */
static void destroy(void *kernel) {}

#define CALL(at, ...) ((void *(*)())api[at])(__VA_ARGS__)

static void compute(void *kernel, void *context) {
    void *x, *y, *info;
    float *from, *to;
    size_t rank, size;
    int64_t shape[8];
    CALL(90, context, (size_t)0, &x);                       /* KernelContext_GetInput */
    CALL(65, x, &info);                                     /* GetTensorTypeAndShape */
    CALL(61, info, &rank);                                  /* GetDimensionsCount */
    CALL(62, info, shape, rank);                            /* GetDimensions */
    CALL(64, info, &size);                                  /* GetTensorShapeElementCount */
    CALL(91, context, (size_t)0, shape, rank, &y);          /* KernelContext_GetOutput */
    CALL(51, x, &from);                                     /* GetTensorMutableData */
    CALL(51, y, &to);
    CALL(99, info);                                         /* ReleaseTensorTypeAndShapeInfo */
    for (size_t at = 0; at < size; at++) to[at] = 2 * from[at];
}

static Op op = {1, create, name, provider, type, one, type, one, compute, destroy,
                {zero, zero, zero, one, one, one, one}};

void *RegisterCustomOps(void *options, const Base *base) {
    static void *domain;
    FILE *mark = fopen(MARK, "a");
    fputs("registered\n", mark);
    fclose(mark);
    api = base->table(1);
    if (!domain) {
        CALL(26, "test.ops", &domain);                      /* CreateCustomOpDomain */
        CALL(27, domain, &op);                              /* CustomOpDomain_Add */
    }
    return CALL(28, options, domain);                       /* AddCustomOpDomain */
}
"""

X = np.random.default_rng(1).standard_normal((8, WIDE)).astype(np.float32)


def custom(**weights: np.ndarray) -> ModelProto:
    """y = twice(x @ w) @ v"""
    return parsed(
        f"""<ir_version: 8, opset_import: ["" : 17, "test.ops" : 1]>
        g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{
            h = MatMul(x, w)
            t = test.ops.Twice(h)
            y = MatMul(t, v)
        }}""",
        **({"w": weight(0), "v": weight(1)} | weights),
    )


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the model, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(custom().SerializeToString())
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Library:
    """A built one, and a file that it writes to whenever it is used."""

    def __init__(self, folder: Path) -> None:
        self.path, self.mark = folder / "libtwice.so", folder / "mark"
        source = folder / "twice.c"
        source.write_text(TWICE)
        command = [compiler(), "-shared", "-fPIC", "-w", f'-DMARK="{self.mark}"']
        subprocess.run([*command, "-o", self.path, source], check=True)

    def uses(self) -> int:
        return len(self.mark.read_text().splitlines()) if self.mark.exists() else 0


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Library:
    if compiler() is None or sys.platform != "linux":
        pytest.skip("no C compiler to build a library of operators with")
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def registered(monkeypatch) -> list[str]:
    """Libraries that the runtime is asked to load; none is."""
    found: list[str] = []
    options = onnxruntime.SessionOptions
    monkeypatch.setattr(options, "register_custom_ops_library", lambda _, path: found.append(path))
    return found


# ------------------------------------------------------------------------------------ refused


def assert_refused(capsys, *words: str, but_not: str = "Traceback") -> None:
    printed = capsys.readouterr()
    error, hint = printed.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    assert printed.out == ""
    for word in words:
        assert word in error + hint
    assert but_not not in error + hint


def test_without_the_option_the_model_is_refused_and_the_hint_names_it(place, capsys):
    assert main(["in.onnx", "out.onnx"]) == 3
    assert_refused(capsys, "Twice", "--custom-ops")
    assert os.listdir(place) == ["in.onnx"]


def test_the_hint_is_not_given_for_other_refusals(place, capsys):
    model = product(v=np.ones((3, 3), np.float32))
    (place / "in.onnx").write_bytes(model.SerializeToString())
    assert main(["in.onnx", "out.onnx"]) == 3
    assert "--custom-ops" not in capsys.readouterr().err


@pytest.mark.parametrize("given", ["missing.so", ".", "in.onnx/x", "a\0b"])
def test_a_library_that_is_not_there(place, capsys, given, registered):
    assert main(["in.onnx", "out.onnx", "--custom-ops", given]) == 3
    assert_refused(capsys, "library")
    assert registered == []
    assert os.listdir(place) == ["in.onnx"]


def test_a_library_that_is_not_there_among_others(place, registered):
    (place / "empty.so").touch()
    with pytest.raises(LoadError, match=r"missing\.so"):
        compress("in.onnx", custom_ops=["empty.so", "missing.so"])
    assert registered == []


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(60)], ids=len)
def test_a_file_that_is_no_library(place, capsys, content):
    (place / "text.so").write_bytes(content)
    assert main(["in.onnx", "out.onnx", "--custom-ops", "text.so"]) == 3
    assert_refused(capsys, "text.so", but_not="refuses the model")
    assert not (place / "out.onnx").exists()


def test_a_library_without_operators(place, capsys):
    found = Path(np.linalg._umath_linalg.__file__)
    assert main(["in.onnx", "out.onnx", "--custom-ops", str(found)]) == 3
    assert_refused(capsys, found.name, but_not="refuses the model")


# --------------------------------------------------------------------------- only when given


def test_nothing_is_loaded_that_was_not_given(place, capsys, registered):
    """Neither what lies beside the model nor what its metadata ask for."""
    model = custom()
    for key in ("custom_ops", "custom_ops_library", "onnx_compress.custom_ops"):
        model.metadata_props.add(key=key, value=str(place / "libtwice.so"))
    (place / "in.onnx").write_bytes(model.SerializeToString())
    (place / "libtwice.so").touch()
    assert main(["in.onnx", "out.onnx"]) == 3
    save(from_proto(product()), place / "fine.onnx")
    assert main(["fine.onnx", "out.onnx", "--quiet"]) == 0
    assert registered == []


def test_what_is_given_is_loaded_by_its_whole_path_and_for_that_run_alone(place, registered):
    (place / "a.so").touch()
    (place / "b.so").touch()
    save(from_proto(product()), place / "fine.onnx")
    compress("fine.onnx", "quant(bits=8)", custom_ops=["a.so", Path("b.so")], measure=False)
    assert registered[:2] == [str(place / "a.so"), str(place / "b.so")]
    assert set(registered) == {str(place / "a.so"), str(place / "b.so")}
    count = len(registered)
    with pytest.raises(InvalidError):
        compress("in.onnx", custom_ops=["a.so"], measure=False)
    assert len(registered) > count
    count = len(registered)
    compress("fine.onnx", "quant(bits=8)", measure=False)
    assert len(registered) == count
    assert limits.libraries() == ()


def test_the_option_may_be_given_more_than_once(place, registered):
    (place / "a.so").touch()
    (place / "b.so").touch()
    save(from_proto(product()), place / "fine.onnx")
    libraries = ["--custom-ops", "a.so", "--custom-ops", "b.so"]
    assert main(["fine.onnx", "out.onnx", "--quiet", *libraries]) == 0
    assert {Path(path).name for path in registered} == {"a.so", "b.so"}


# ---------------------------------------------------------------------------- with a real one


def outputs(path: Path, library: Library) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library.path))
    return onnxruntime.InferenceSession(str(path), options).run(None, {"x": X})[0]


@pytest.mark.parametrize("memory", [[], ["--memory", "20K"]], ids=["whole", "in pieces"])
@pytest.mark.parametrize("passes", ["fold", "quant(bits=8)", "prune,quant"])
def test_a_model_with_custom_operators_is_compressed(place, library, passes, memory):
    np.savez(place / "data.npz", x=X)
    arguments = ["in.onnx", "out.onnx", "--calib", "data.npz", "--quiet", "--passes", passes]
    assert main([*arguments, *memory, "--custom-ops", str(library.path)]) == 0
    expected = X @ weight(0) * 2 @ weight(1)
    result = outputs(place / "out.onnx", library)
    assert np.linalg.norm(result - expected) < 0.15 * np.linalg.norm(expected)
    model = onnx.load(place / "out.onnx")
    assert [node.op_type for node in model.graph.node if node.domain == "test.ops"] == ["Twice"]
    smaller = (place / "out.onnx").stat().st_size < (place / "in.onnx").stat().st_size
    assert smaller == (passes != "fold")


def test_the_library_runs_only_when_it_is_given(place, library, capsys):
    shutil.copy(library.path, place / "libtwice.so")
    before = library.uses()
    assert main(["in.onnx", "out.onnx"]) == 3
    assert_refused(capsys, "--custom-ops")
    assert library.uses() == before
    assert main(["in.onnx", "out.onnx", "--quiet", "--custom-ops", "libtwice.so"]) == 0
    assert library.uses() > before


def test_a_library_in_the_current_folder_is_found_by_its_name(place, library):
    """Not in the folders where the system looks for libraries."""
    shutil.copy(library.path, place / "odd name ä.so")
    compress("in.onnx", "quant(bits=8)", custom_ops=["odd name ä.so"], measure=False)


PASSES = [Fold(), Prune(sparsity=0.5), Quant(bits=16), Quant(bits=8)]


@pytest.mark.parametrize("item", PASSES, ids=str)
def test_passes_leave_custom_operators_alone_that_can_be_run(library, item):
    view = from_proto(custom())
    with limits.custom_operators([library.path]):
        report = item.run(view, Context(targets.load("avx2"), {"x": X}))
    assert report.modified == (item != Fold())
    (before,) = (node for node in custom().graph.node if node.domain)
    (after,) = (node for node in to_proto(view).graph.node if node.domain)
    assert (after.op_type, list(after.attribute)) == (before.op_type, list(before.attribute))
