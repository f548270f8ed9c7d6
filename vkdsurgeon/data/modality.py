"""What a subject is met in: images or clips of sound; told by the names of files, as records guarantee it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

Modality: TypeAlias = Literal["image", "audio"]
"""What a tower takes in."""

NOUNS: dict[Modality, str] = {"image": "image", "audio": "clip"}
"""What one file is called in messages."""

CLIP_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"})
"""How the names of clips end."""


def modality_of(path: Path) -> Modality:
    """The modality of a file that a record names."""
    return "audio" if path.suffix.lower() in CLIP_SUFFIXES else "image"


def noun_of(path: Path) -> str:
    """What such a file is called."""
    return NOUNS[modality_of(path)]
