"""Recipes that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError

_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> tuple[str, ...]:
    """Names of the presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of a preset, by recipe key; everything else is as by default.

    Raises:
        UserError: There is no such preset.
    """
    if name not in preset_names():
        raise UserError(
            "no such preset",
            where="`preset`",
            value=name,
            expected="one of " + ", ".join(preset_names()),
            remedy="use `recipe` for a recipe file of your own",
        )
    import yaml

    return yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) or {}
