"""Compiling, choosing a path, threads, forks: what stands between a kernel and the processor."""

import os
import subprocess
import sys
import threading
import time

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from onnx_compress.kernels.integer import matmul_integer, prepare
from onnx_compress.kernels.linear import quantize_linear
from onnx_compress.kernels.machine import paths, storage, threads
from onnx_compress.kernels.machine.compiled import kernel

from kernel_paths import every_path

PRODUCT = """
import numpy as np
from onnx_compress.kernels.integer import matmul_integer
a = np.arange(60, dtype=np.uint8).reshape(4, 15)
b = np.arange(45, dtype=np.int8).reshape(15, 3)
assert (matmul_integer(a, b, threads=2) == a.astype(int) @ b).all()
print("right")
"""


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:onnx_compress", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_fastest_path_is_taken_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    assert paths.available()[-1] == "portable"
    assert paths.select() == paths.available()[0]
    assert paths.select("portable") == "portable"
    monkeypatch.setenv(paths.VARIABLE, "portable")
    assert paths.select() == "portable"
    assert prepare(np.zeros((2, 2), np.int8)).path == "portable"


def test_paths_that_cannot_run_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="no path of the kernels"):
        paths.select("sse")
    monkeypatch.setattr(paths, "available", lambda: ("portable",))
    with pytest.raises(ValueError, match="cannot run on this processor; there are portable"):
        paths.select("avx2")
    monkeypatch.setenv(paths.VARIABLE, "avx2")
    with pytest.raises(ValueError, match="cannot run"):
        prepare(np.zeros((2, 2), np.int8))


def test_a_processor_that_numba_is_told_to_assume_has_no_more_than_it_says():
    code = "from onnx_compress.kernels.machine.paths import available; print(*available())"
    assert python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == ["portable"]


@every_path
def test_every_path_can_be_forced_by_the_environment(path, monkeypatch, capsys):
    monkeypatch.setenv(paths.VARIABLE, path)
    exec(PRODUCT, {})
    assert capsys.readouterr().out == "right\n"
    assert prepare(np.zeros((2, 2), np.int8)).path == path


def test_kernels_run_where_nothing_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, whoever asks
    assert python(PRODUCT, NUMBA_CACHE_DIR=str(blocked)) == ["right"]


def test_what_was_compiled_is_kept_and_damage_is_harmless(tmp_path):
    assert python(PRODUCT, NUMBA_CACHE_DIR=str(tmp_path)) == ["right"]
    kept = sorted((tmp_path / "onnx-compress").rglob("*.bin"))
    assert kept
    for path in kept[::2]:
        path.write_bytes(path.read_bytes()[:100])
    before = [path.stat().st_mtime_ns for path in kept[1::2]]
    assert python(PRODUCT, NUMBA_CACHE_DIR=str(tmp_path)) == ["right"]
    assert [path.stat().st_mtime_ns for path in kept[1::2]] == before
    assert all(path.stat().st_size > 100 for path in kept[::2])


def test_folders_of_versions_long_unused_are_removed(tmp_path):
    old, young = tmp_path / "root" / "old", tmp_path / "root" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    storage._make(tmp_path / "root" / "new")
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["new", "young"]


def test_a_kernel_compiles_for_each_kind_of_arrays_and_reads_what_is_read_only():
    @kernel(writes=("out",))
    def double(x, out):
        for k in range(x.size):
            out[k] = x[k] + x[k]

    for dtype in (np.float32, np.int64):
        x, out = np.arange(5, dtype=dtype), np.empty(5, dtype)
        x.setflags(write=False)
        double(x, out)
        np.testing.assert_array_equal(out, x * 2)


def test_pieces_cover_everything_once_and_errors_come_out():
    for count in (0, 1, 7, 100):
        for workers in (1, 2, 5):
            seen = np.zeros(count, int)

            def job(start, stop, seen=seen):
                assert start % 8 == 0
                seen[start:stop] += 1

            threads.spread(job, count, 8, workers)
            assert (seen == 1).all()

    def broken(start, stop):
        raise KeyError(start)

    for workers in (1, 3):
        with pytest.raises(KeyError):
            threads.spread(broken, 100, 1, workers)
    with pytest.raises(ValueError, match="1 or more"):
        threads.spread(broken, 1, 1, 0)


def test_no_thread_is_woken_for_little(monkeypatch):
    def owners(work):
        found = []
        threads.spread(lambda *_: (work(), found.append(threading.get_ident())), 64, 1, 2)
        return set(found)

    assert len(owners(lambda: time.sleep(0.002))) == 2
    monkeypatch.setattr(threads, "_WORTH", 1.0)
    assert owners(lambda: None) == {threading.get_ident()}


@every_path
def test_many_threads_at_a_time_get_the_same(path):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (33, 200)).astype(np.uint8)
    ready = prepare(rng.integers(-128, 128, (200, 300)).astype(np.int8), path=path)
    wanted = matmul_integer(a, ready, 3)
    wrong = []

    def work(count):
        for _ in range(20):
            if not (matmul_integer(a, ready, 3, threads=count) == wanted).all():
                wrong.append(count)

    workers = [threading.Thread(target=work, args=(1 + at % 3,)) for at in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_after_a_fork_goes_on():
    fork = """
import os, sys
child = os.fork()
if child == 0:
    assert (matmul_integer(a, b, threads=2) == a.astype(int) @ b).all()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(PRODUCT + fork) == ["right", "7"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_what_compiles_is_loaded_aside_and_a_process_may_fork_or_end_meanwhile():
    begin = "from onnx_compress.kernels.machine.compiled import prepare\nprepare()\n"
    assert python(begin) == []
    fork = """
import os, sys
child = os.fork()
if child == 0:
    os._exit(7 if "numba" in sys.modules else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(begin + fork + PRODUCT) == ["7", "right"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_may_be_made_while_a_kernel_is_compiled():
    code = """
import os, threading
import numpy as np
from onnx_compress.kernels.machine.compiled import kernel

@kernel(writes=("out",))
def double(x, out):
    for k in range(x.size):
        out[k] = x[k] + x[k]

x = np.ones(3)
other = threading.Thread(target=lambda: double(x, np.empty(3)))
other.start()
child = os.fork()
if child == 0:
    out = np.empty(3, np.float32)
    double(np.ones(3, np.float32), out)
    os._exit(int(out.sum()))
other.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code) == ["6"]


def assembly(emit, count, cpu):
    """What LLVM makes of a function of `count` addresses whose body `emit` writes, for a CPU."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = "x86_64-unknown-linux-gnu"
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count)
    function = ir.Function(module, kind, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu=cpu, opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder_of_passes = llvm.create_pass_builder(machine, options)
    builder_of_passes.getModulePassManager().run(parsed, builder_of_passes)
    return machine.emit_assembly(parsed)


def test_llvm_emits_vpdpbusd_for_processors_with_vnni():
    """Elsewhere the path runs spelled out; that the instruction is there is seen here."""
    from onnx_compress.kernels.simd import lowbit, tile
    from onnx_compress.kernels.simd.lanes import LANES

    for rows in (1, 6):
        lanes = LANES["avx512vnni", "bytes"]
        text = assembly(
            lambda b, *a, kind=lanes, n=rows: tile.emit(b, kind, n, *a), 8, "cascadelake"
        )
        products = tile.UNROLL * rows * lanes.vectors
        assert text.count("vpdpbusd") == products
        assert "zmm" in text
    small = lowbit.SMALL["avx512vnni"]
    for bits in (2, 4, 8):
        text = assembly(
            lambda b, *a, n=bits: lowbit.emit(b, small, n, 2, 32, True, *a), 8, "cascadelake"
        )
        assert text.count("vpdpbusd") == 8 * 2 * small.vectors
    lanes = LANES["avx512vnni", "saturating"]
    text = assembly(lambda b, *a: tile.emit(b, lanes, 2, *a), 8, "cascadelake")
    assert text.count("vpmaddubsw") == tile.UNROLL * 2 * lanes.vectors


def test_llvm_emits_the_instructions_meant_for_avx2():
    from onnx_compress.kernels.simd import tile
    from onnx_compress.kernels.simd.lanes import LANES

    for kind, name in (("pairs", "vpmaddwd"), ("bytes", "vpmaddubsw")):
        lanes = LANES["avx2", kind]
        text = assembly(lambda b, *a, n=lanes: tile.emit(b, n, 6, *a), 8, "haswell")
        assert text.count(name) == tile.UNROLL * 6 * lanes.vectors


def test_numbers_of_python_and_of_numpy_are_the_same_to_a_kernel():
    x = np.float32([1, 2])
    np.testing.assert_array_equal(quantize_linear(x, 1), quantize_linear(x, np.float64(1)))
