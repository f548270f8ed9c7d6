"""Does a journal belong to this run?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError

_TOLD = {
    "checkpoint": "the checkpoint",
    "language_model": "the weights of the language model",
    "forget": "the forget set (`forget`)",
    "retain": "the retain set (`retain`)",
    "generic": "the generic set (`generic`)",
    "questions": "the questions about the images (`forget`, `retain`, `generic`)",
    "text": "the text retain set (`text`)",
    "replay": "the replay files (`replay`)",
    "teachers": "a teacher (`forget_teacher`, `retain_teacher`)",
    "recipe": "the recipe",
    "seed": "the seed (`seed`)",
    "dtype": "the dtype (`dtype`)",
    "device": "the device (`device`)",
    "split": "what counts as tower and projector (`tower`, `projector`)",
    "versions": "an installed version",
}


def check_match(kept: Mapping[str, Any], found: Mapping[str, Any], where: Path) -> None:
    """Compare the inputs of a journal with those of this run.

    Raises:
        UserError: Naming the first that differs.
    """
    for key in dict.fromkeys((*found, *kept)):
        before, now = kept.get(key), found.get(key)
        if before == now:
            continue
        what = _TOLD.get(key, key)
        shown = key in ("seed", "dtype", "device", "recipe", "versions")
        parts = []
        while isinstance(before, dict) and isinstance(now, dict):
            names = dict.fromkeys((*now, *before))
            parts.append(next(name for name in names if before.get(name) != now.get(name)))
            before, now = before.get(parts[-1]), now.get(parts[-1])
        if parts:
            what += f": {'.'.join(parts)}"
        shown = shown and not isinstance(before, dict) and not isinstance(now, dict)
        raise UserError(
            f"the journal belongs to another run; it differs in {what}",
            where=where,
            value=now if shown else None,
            expected=f"{before!r}, as in the run that wrote the journal" if shown else None,
            remedy="use the same input as that run, or remove the journal to start again",
        )
