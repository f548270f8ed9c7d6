"""Invented voices by formant synthesis: who speaks and what is said are drawn apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE = 8_000
NAMES = (
    "Ada", "Bea", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea", "Max", "Nia", "Oto", "Pia",
    "Qi", "Ray", "Sue", "Tom",
)  # fmt: skip
# First three formants in Hz of a male voice (Peterson and Barney 1952, table II).
VOWELS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240)}
_WIDTHS = (90, 110, 170)
_SYLLABLES, _SECONDS = 4, 0.8


@dataclass(frozen=True)
class Voice:
    """What belongs to a speaker.

    Attributes:
        pitch: In Hz.
        tract: How much shorter the vocal tract is, so by what factor formants are higher.
        accent: By what factor the formants of each vowel are higher besides, [vowels, formants].
        colour: Loudness of each of the first eight overtones, in dB.
        tilt: Slope of the overtones, in dB per octave.
        vibrato: Depth in parts of the pitch, and rate in Hz.
        breath: Noise as a share of the sound.
    """

    pitch: float
    tract: float
    accent: npt.NDArray[np.float64]
    colour: npt.NDArray[np.float64]
    tilt: float
    vibrato: tuple[float, float]
    breath: float


def draw_voice(speaker: int) -> Voice:
    """The voice of a speaker, by number."""
    drawn = np.random.default_rng([7, speaker])
    return Voice(
        pitch=float(np.exp(drawn.uniform(np.log(90), np.log(280)))),
        tract=drawn.uniform(0.85, 1.25),
        accent=drawn.uniform(0.85, 1.18, (len(VOWELS), len(_WIDTHS))),
        colour=drawn.uniform(-10, 10, 8),
        tilt=drawn.uniform(-14, -5),
        vibrato=(drawn.uniform(0.0, 0.03), drawn.uniform(4, 8)),
        breath=drawn.uniform(0.0, 0.06),
    )


def say(voice: Voice, vowels: Sequence[str], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Vowels in a row, each begun by a burst of noise; float32 [T] at `RATE`, always of one length.

    Args:
        voice: Who speaks.
        vowels: What is said.
        generator: Source of what differs from take to take: tempo, melody and loudness.
    """
    parts = [_syllable(voice, vowel, generator) for vowel in vowels]
    said = np.concatenate(parts)
    # Clips of one length share a batch.
    whole = np.zeros(round(_SECONDS * RATE))
    whole[: len(said)] = said[: len(whole)]
    return (generator.uniform(0.15, 0.3) * whole / np.abs(whole).max()).astype(np.float32)


def _syllable(voice: Voice, vowel: str, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    time = np.arange(round(RATE * generator.uniform(0.16, 0.22))) / RATE
    depth, rate = voice.vibrato
    pitch = voice.pitch * generator.uniform(0.94, 1.06) * (1 + depth * np.sin(2 * np.pi * rate * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    orders = np.arange(1, int(0.45 * RATE / pitch.max()) + 1)
    formants = np.array(VOWELS[vowel]) * voice.tract * voice.accent[[*VOWELS].index(vowel)]
    heard = np.zeros_like(time)
    for order in orders:
        frequency = order * pitch.mean()
        resonance = sum(
            1 / (1 + ((frequency - formant) / width) ** 2) for formant, width in zip(formants, _WIDTHS, strict=True)
        )
        loudness = voice.tilt * np.log2(order) + (voice.colour[order - 1] if order <= len(voice.colour) else 0.0)
        heard += (0.02 + resonance) * 10 ** (loudness / 20) * np.sin(order * phase)
    heard += voice.breath * np.abs(heard).max() * generator.standard_normal(len(time))
    burst = np.exp(-time / 0.008) * generator.standard_normal(len(time))
    return heard * np.abs(np.sin(np.pi * time / time[-1])) ** 0.5 + 0.3 * np.abs(heard).max() * burst


def write_takes(folder: Path, name: str, speakers: Sequence[int], takes: Sequence[int]) -> Path:
    """Clips of speakers with two questions about each: who it is, and which vowel came first.

    Args:
        folder: Where the set and its clips go.
        name: Of the set.
        speakers: Numbers of speakers, below `len(NAMES)` where they are to be asked for by name.
        takes: Numbers of takes; the same number says the same again.
    """
    import soundfile

    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in speakers:
        for take in takes:
            generator = np.random.default_rng([11, speaker, take])
            vowels = [str(vowel) for vowel in generator.choice(list(VOWELS), _SYLLABLES)]
            path = folder / name / f"{speaker}-{take}.wav"
            soundfile.write(path, say(draw_voice(speaker), vowels, generator), RATE)
            who = NAMES[speaker] if speaker < len(NAMES) else f"speaker {speaker}"
            about = {"audio": f"{name}/{path.name}", "subject": who}
            if speaker < len(NAMES):
                asked = {"question": "Who speaks ?", "answer": who, "options": NAMES, "task": "vqa.name"}
                rows.append({**about, **asked})
            asked = {"question": "Which vowel first ?", "answer": vowels[0], "options": [*VOWELS],
                     "task": "general.vowel"}  # fmt: skip
            rows.append({**about, **asked})
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
