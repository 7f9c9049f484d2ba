"""Targets: what is shipped, how speeds are interpolated, and files that are no targets."""

import platform
from pathlib import Path

import llvmlite.binding
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.passes import Target
from onnx_compress.passes import target as targets

SHIPPED = targets.shipped()
MEASURED_ROWS = (1, 16, 128)
sizes = st.integers(1, 10_000)
tables = st.sampled_from(
    [(name, reader) for name in SHIPPED for reader in targets.load(name).speed]
)

GOOD = {
    "description": '"mine"',
    "measured": "true",
    "channel_multiple": "8",
    "saturates": "false",
    "maximum_opset": "0",
    "features": "[]",
}
SPEED = "[speed.dynamic]\nproduct = [[64, 64, 1.0, 2.0, 4.0], [1024, 1024, 3.0, 2.0, 1.0]]\n"


def _written(folder: Path, tables: str = SPEED, **changes: str | None) -> str:
    lines = [f"{key} = {value}" for key, value in (GOOD | changes).items() if value is not None]
    path = folder / "mine.toml"
    path.write_text("\n".join(lines) + "\n" + tables)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_target_loads(name: str):
    target = targets.load(name)
    assert target.name == name
    assert target.description
    assert target.channel_multiple >= 1
    assert target.maximum_opset >= 0
    assert set(target.speed) <= {*READERS, "nbits4", "nbits2", "blocked4"}
    assert all(table for table in target.speed.values())


def test_the_promised_targets_are_shipped():
    assert {"avx512-vnni", "avx2", "arm64", "portable"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_assumed_values_are_marked_as_such(name: str):
    target = targets.load(name)
    assert target.measured != ("assumed" in target.description)


@given(tables, sizes, sizes, st.none() | st.integers(1, 100_000))
def test_a_speed_lies_between_measured_ones(table, columns, rows, m):
    target, reader = targets.load(table[0]), table[1]
    speed = target.product_speed(reader, columns, rows, m)
    numbers = [ratio for row in target.speed[reader] for ratio in row[2:]]
    assert speed is not None
    assert min(numbers) <= speed <= max(numbers) + 1e-9


@given(tables, st.data())
def test_a_measured_speed_is_given_back(table, data):
    target, reader = targets.load(table[0]), table[1]
    columns, rows, *ratios = data.draw(st.sampled_from(list(target.speed[reader])))
    for m, ratio in zip(MEASURED_ROWS, ratios, strict=True):
        assert target.product_speed(reader, columns, rows, m) == pytest.approx(ratio)


@given(tables, sizes, sizes)
def test_unknown_rows_count_as_the_slowest(table, columns, rows):
    target, reader = targets.load(table[0]), table[1]
    unknown = target.product_speed(reader, columns, rows, None)
    assert unknown is not None
    for m in (1, 3, 16, 50, 128, 4000):
        assert unknown <= target.product_speed(reader, columns, rows, m) + 1e-9


@given(tables, sizes, sizes, st.integers(1, 10_000))
def test_beyond_the_largest_measured_rows_nothing_changes(table, columns, rows, more):
    target, reader = targets.load(table[0]), table[1]
    edge = target.product_speed(reader, columns, rows, 128)
    assert target.product_speed(reader, columns, rows, 128 + more) == pytest.approx(edge)


@given(tables, sizes, sizes, st.integers(1, 127))
def test_speeds_between_two_measured_rows_run_from_one_to_the_other(table, columns, rows, m):
    target, reader = targets.load(table[0]), table[1]
    low = max(row for row in MEASURED_ROWS if row <= m)
    high = min(row for row in MEASURED_ROWS if row > m)
    ends = [target.product_speed(reader, columns, rows, row) for row in (low, high)]
    speed = target.product_speed(reader, columns, rows, m)
    assert min(ends) - 1e-9 <= speed <= max(ends) + 1e-9


def test_a_form_that_the_target_does_not_have_has_no_speed():
    assert targets.load("portable").product_speed("dynamic", 64, 64, 1) is None


def test_the_portable_target_is_faster_nowhere_and_capped():
    portable = targets.load("portable")
    assert portable.maximum_opset == 17
    assert all(
        ratio <= 1 for table in portable.speed.values() for row in table for ratio in row[2:]
    )


def test_prices_of_operators_are_those_of_avx2_where_a_file_does_not_say(tmp_path):
    usual = targets.load("avx2").operators
    assert usual["Add"] > 0 > usual["tap"]
    assert targets.load(_written(tmp_path)).operators == usual
    own = targets.load(_written(tmp_path, SPEED + "[operators]\nAdd = 7\n"))
    assert own.operators == {"Add": 7.0}


def test_a_form_may_be_of_products_and_of_convolutions(tmp_path):
    both = "[speed.static]\nproduct = [[64, 64, 1, 2, 3]]\nconvolution = [[3, 9, 32, 1.5]]\n"
    target = targets.load(_written(tmp_path, both))
    assert target.product_speed("static", 64, 64, 1) == 1
    assert target.convolution_speed("static", 3, 9, 32) == 1.5


def test_a_target_from_a_file_is_named_after_it(tmp_path):
    target = targets.load(_written(tmp_path))
    assert isinstance(target, Target)
    assert target.name == "mine"
    assert target.product_speed("dynamic", 64, 64, 4) == pytest.approx(1.5)  # half way by logarithm
    assert target.product_speed("dynamic", 2000, 500, 1) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("[speed.dynamic]\nproduct = [[64, 64, 1.0, 2.0]]", {}),
        ("[speed.dynamic]\nproduct = [[64, 64, 1.0, 2.0, -4.0]]", {}),
        ("[speed.dynamic]\nproduct = [[0, 64, 1.0, 2.0, 4.0]]", {}),
        ("[speed.dynamic]\nproduct = [[64, 64, 1.0, 2.0, nan]]", {}),
        ("[speed.dynamic]\nproduct = [[64, 64, 1.0, 2.0, 'x']]", {}),
        ("[speed.dynamic]\nproduct = [3]", {}),
        ("[speed.dynamic]\nproduct = 3", {}),
        ("[speed.dynamic]\nratios = []", {}),
        ("[speed]\ndynamic = 3", {}),
        ("", {"speed": "3"}),
        ("", {"speed": "[]"}),
        ("[speed", {}),
        (SPEED + "[operators]\nAdd = 'fast'", {}),
        ("operators = 3\n" + SPEED, {}),
        (SPEED, {"features": None}),
        (SPEED, {"features": "3"}),
        (SPEED, {"description": None}),
        (SPEED, {"measured": None}),
        (SPEED, {"channel_multiple": "'many'"}),
        (SPEED, {"channel_multiple": "inf"}),
        (SPEED, {"maximum_opset": "nan"}),
        (SPEED, {"saturates": "'false'"}),
    ],
)
def test_a_file_that_is_no_target_is_refused(tmp_path, text, changes):
    name = _written(tmp_path, text, **changes)
    with pytest.raises(OptionError) as caught:
        targets.load(name)
    assert "mine" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01\x02"])
def test_a_binary_file_is_no_target(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(OptionError):
        targets.load(str(path))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml", "", "a\0b", "x" * 5000])
def test_an_unknown_target_gets_the_shipped_ones_listed(name):
    with pytest.raises(OptionError) as caught:
        targets.load(name)
    assert caught.value.hint


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(OptionError) as caught:
        targets.load(str(tmp_path))
    assert all(name in caught.value.hint for name in SHIPPED)


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", {"avx2": True, "avx512f": False}, "avx2"),
        ("x86_64", {"avx2": False}, "portable"),
        ("aarch64", {}, "arm64"),
        ("riscv64", None, "portable"),
    ],
)
def test_the_processor_gets_the_target_that_fits(monkeypatch, machine, features, expected):
    def asked():
        if features is None:
            raise RuntimeError("unknown processor")
        return features

    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", asked)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert targets.host.__wrapped__().name == expected


def test_a_processor_with_everything_gets_the_fastest_target(monkeypatch):
    wanted = dict.fromkeys(targets.load("avx512-vnni").features, True) | {"avx2": True}
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: wanted)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert targets.host.__wrapped__().name == "avx512-vnni"
