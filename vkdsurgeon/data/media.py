"""Images and clips side by side: all that differs between them before a tower's processor sees them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkdsurgeon.data.augment import varied
from vkdsurgeon.data.augment_clips import varied_clip
from vkdsurgeon.data.clips import check_clip, open_clip
from vkdsurgeon.data.images import check_header, open_image
from vkdsurgeon.data.modality import Modality, modality_of


@dataclass(frozen=True)
class Medium:
    """One kind of file.

    Attributes:
        open: Decodes one: path, `where`, `digest`.
        check: Looks at one's header: path, `where`; equal results can be prepared alike.
        varied: The content as a variant of its file shows it.
    """

    open: Callable[..., Any]
    check: Callable[..., Hashable]
    varied: Callable[..., Any]


MEDIA: dict[Modality, Medium] = {
    "image": Medium(open_image, check_header, varied),
    "audio": Medium(open_clip, check_clip, varied_clip),
}


def medium_of(path: Path) -> Medium:
    """The kind of a file that a record names."""
    return MEDIA[modality_of(path)]
