"""The rows of a comparison by name: methods, and variants of VKD. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vkdsurgeon.baselines.registry import BASELINES, VKD
from vkdsurgeon.config.preset import preset_names, preset_settings
from vkdsurgeon.errors import UserError

_OUTPUT = {f"{VKD}-{loss}": loss for loss in ("npo", "idk", "ga", "uniform")}
_PRESETS = {f"{VKD}-{name}": name for name in preset_names()}
_DEFAULT = "default"


@dataclass(frozen=True)
class ComparedMethod:
    """One row of a comparison.

    Attributes:
        name: As in the table and in gates.
        method: As `unlearn --method` takes it.
        title: For people.
        preset: Recipe keys under the user's settings.
        overrides: Recipe keys that make the variant, over them.
        reads_text: Whether it is given text.
    """

    name: str
    method: str
    title: str
    preset: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    reads_text: bool = False


def known_names() -> list[str]:
    """Every name that can be compared."""
    return [VKD, *_PRESETS, *_OUTPUT, *BASELINES]


def compared_method(name: str, preset: str | None = None) -> ComparedMethod:
    """The method of a name.

    Args:
        name: One of `known_names`.
        preset: What `vkd` itself stands for.

    Raises:
        UserError: There is no such method, or no such preset.
    """
    if name in BASELINES:
        return ComparedMethod(name, name, BASELINES[name].title, reads_text=BASELINES[name].reads_text)
    if name in _OUTPUT:
        title = f"visual knowledge distillation, {_OUTPUT[name]} through the frozen language model"
        return ComparedMethod(name, VKD, title, overrides={"output_loss": _OUTPUT[name]})
    if name != VKD and name not in _PRESETS:
        raise UserError("no such method", where="`methods`", value=name, expected=", ".join(known_names()))
    chosen = preset if name == VKD else _PRESETS[name]
    settings = {} if chosen is None else preset_settings(chosen)
    title = "visual knowledge distillation, feature mode"
    if chosen not in (None, _DEFAULT):
        title = f"visual knowledge distillation, preset {chosen}"
    return ComparedMethod(name, VKD, title, preset=settings, reads_text="decoder" in settings)


def parse_names(text: str, preset: str | None = None) -> list[ComparedMethod]:
    """The methods of a comma-separated list; `all` is VKD by every preset, by NPO in output mode, and the others.

    Args:
        text: The list.
        preset: What `vkd` itself stands for.

    Raises:
        UserError: An unknown name, one given twice, or none; a preset that does not exist, or that nobody uses.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        presets = [name for name, shipped in _PRESETS.items() if shipped not in (_DEFAULT, preset)]
        names = [VKD, *presets, "vkd-npo", *BASELINES]
    if not names or len(set(names)) != len(names):
        raise UserError(
            "not a list of methods",
            where="`methods`",
            value=text,
            expected=f"different names, separated by commas: {', '.join(known_names())}, or all",
        )
    if preset is not None and VKD not in names:
        raise UserError(
            "no method uses the preset",
            where="`preset`",
            value=preset,
            expected=f"{VKD} among `methods`, which the preset is of",
            remedy=f"name {VKD}-{preset} among `methods` instead",
        )
    return [compared_method(name, preset) for name in names]


def parse_seeds(text: str) -> list[int]:
    """The seeds of a comma-separated list.

    Raises:
        UserError: Not different natural numbers.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) < 2**63 for word in words) or len(set(words)) != len(words):
        raise UserError("not a list of seeds", where="`seeds`", value=text, expected="different numbers such as 0,1,2")
    return [int(word) for word in words]
