"""Clips of sound from untrusted files: bounded, fully decoded, always one channel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vkdsurgeon.data.content import POINTER, no_content, same_as_before
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or
from vkdsurgeon.files.optional import optional

MAX_SAMPLES = 64_000_000
LEAST_SECONDS = 0.1
_RATES = (4_000, 384_000)
# An allow-list: other parsers of libsndfile are seldom exercised.
_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "MP3", "OGG", "AIFF", "AU", "CAF")
# Where a file breaks off, libsndfile says so in its log alone. Who writes to a pipe does not know the length.
_BREAKS_OFF = re.compile(r"data : (\d+) \(should be (\d+)\)")
_LENGTH_UNKNOWN = 0x7FFFFFFF


@dataclass(frozen=True)
class Clip:
    """Sound of one channel.

    Attributes:
        samples: float32 [T]; full scale is -1 to 1.
        rate: Samples per second.
    """

    samples: npt.NDArray[np.float32]
    rate: int

    @property
    def size(self) -> str:
        """Its length, for messages."""
        return f"{len(self.samples) / self.rate:.2f} s"

    def at(self, rate: int) -> Clip:
        """The same sound with another number of samples per second."""
        if rate == self.rate:
            return self
        # Imported late: few runs hear.
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        made = resample_poly(self.samples, rate // common, self.rate // common)
        return Clip(np.ascontiguousarray(made, dtype=np.float32), rate)


def open_clip(path: Path, *, where: str | None = None, digest: str | None = None) -> Clip:
    """Decode one clip; several channels are averaged.

    Args:
        path: The file.
        where: `file:line` of the record that names it, for messages.
        digest: SHA-256 that the file's bytes had when the set was read, in hex.

    Raises:
        UserError: The file is missing, holds no sound, is truncated, too long or too short, or has samples that are
            no numbers; or the library that reads clips is not installed.
        SurgeryError: The file was changed after the set was read.
    """
    place = f"{where} ({path})" if where else str(path)
    with _opened(path, place, digest) as sound:
        samples = sound.read(dtype="float32", always_2d=True)
        if len(samples) < sound.frames:
            raise _broken_off(place, sound.frames, len(samples))
        rate = int(sound.samplerate)
    if not np.isfinite(samples).all():
        raise UserError(
            "the clip has samples that are no numbers", where=place, remedy="save it again, with 16 bits per sample"
        )
    return Clip(np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32)), rate)


def check_clip(path: Path, *, where: str) -> tuple[int, int]:
    """Look at a clip's header alone.

    Args:
        path: The file.
        where: `file:line` of the record that names it, for messages.

    Returns:
        Its samples per second and their number.

    Raises:
        UserError: As `open_clip`, as far as the header tells.
    """
    with _opened(path, f"{where} ({path})", None) as sound:
        return int(sound.samplerate), int(sound.frames)


@contextmanager
def _opened(path: Path, place: str, digest: str | None) -> Iterator[Any]:
    """The file as soundfile has it open, once its header has passed; what goes wrong in the context is its fault."""
    library = optional("soundfile", "audio", "reading clips of sound", where=place)
    try:
        # Through a file object: of a name, soundfile would guess the format.
        with path.open("rb") if digest is None else same_as_before(path, place, digest, "clip") as content:
            try:
                with library.SoundFile(content) as sound:
                    _check_header(sound, place)
                    yield sound
            except library.SoundFileError as error:
                raise _unreadable(place, content, error) from None
    except FileNotFoundError:
        raise UserError("the clip does not exist", where=place) from None
    except OSError as error:
        told = UserError("the clip cannot be read", where=place, value=error.strerror)
        raise machine_or(told, error) from None


def _check_header(sound: Any, place: str) -> None:
    if sound.format not in _FORMATS:
        raise UserError("a clip of a format that is not read", where=place, value=sound.format, expected=_expected())
    if not _RATES[0] <= sound.samplerate <= _RATES[1]:
        raise UserError(
            "the clip has an unusual number of samples per second",
            where=place,
            value=sound.samplerate,
            expected=f"{_RATES[0]} to {_RATES[1]}",
        )
    if sound.frames * sound.channels > MAX_SAMPLES:
        raise UserError(
            "the clip is too long",
            where=place,
            value=f"{sound.frames} samples in {sound.channels} channels",
            expected=f"at most {MAX_SAMPLES} in all",
            remedy="cut it into several",
        )
    if sound.frames < LEAST_SECONDS * sound.samplerate:
        raise UserError(
            "the clip is too short", where=place, value=sound.frames, expected=f"at least {LEAST_SECONDS} seconds"
        )
    found = _BREAKS_OFF.search(sound.extra_info)
    if found and int(found[2]) < int(found[1]) < _LENGTH_UNKNOWN:
        raise _broken_off(place, int(found[1]), int(found[2]))


def _broken_off(place: str, promised: int, held: int) -> UserError:
    return UserError("the clip breaks off", where=place, value=held, expected=f"the {promised} that its header names")


def _unreadable(place: str, content: BinaryIO, error: Exception) -> UserError:
    content.seek(0)
    beginning = content.read(len(POINTER))
    if beginning == POINTER:
        return no_content(place, "clip")
    # What comes before the last colon names an object in memory.
    reason = str(error).rpartition(": ")[2].strip() if beginning else "The file is empty."
    return UserError(
        f"the clip cannot be decoded: {reason}", where=place, value=beginning[:16] or None, expected=_expected()
    )


def _expected() -> str:
    return f"a whole file in one of {', '.join(_FORMATS)}"
