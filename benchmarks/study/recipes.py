"""The study's recipes: what `vkdsurgeon unlearn` takes, and which pictures retention is distilled on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vkdsurgeon.errors import UserError
from vkdsurgeon.recipe import Recipe
from vkdsurgeon.recipe.preset import preset_settings

# Rows of their own: measured, never unlearned.
RESERVED = ("base", "gold")


class StudyRecipe(BaseModel):
    """One file of `recipes/`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="One line for the table's notes.")
    keep: Literal["retain", "generic", "built-in"] = Field(
        "retain",
        description="What retention is distilled on: the retain set; strangers drawn in the case's style; the "
        "strangers that ship with the package, as `unlearn` does without --retain and --generic.",
    )
    preset: str | None = Field(None, description="A preset of the package that `recipe` starts from.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Keys of the recipe that differ from that.")

    @property
    def differences(self) -> dict[str, Any]:
        """Keys that differ from the default recipe, those of the preset among them."""
        return {**(preset_settings(self.preset) if self.preset else {}), **self.recipe}

    @property
    def settings(self) -> Recipe:
        """The recipe, validated."""
        return Recipe.model_validate(self.differences)


def load(file: Path) -> tuple[str, StudyRecipe]:
    """Read a recipe of the study; its name is the file's.

    Raises:
        UserError: No file, no YAML, unknown keys, or a reserved name.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the recipe cannot be read: {error.strerror}", where=file) from error
    try:
        recipe = StudyRecipe.model_validate(yaml.safe_load(text))
        _ = recipe.settings
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(
            f"not a recipe of the study: {error}", where=file, expected="what, keep, preset, recipe"
        ) from None
    if file.stem in RESERVED:
        raise UserError("base and gold are measured beside every recipe", where=file, remedy="give it another name")
    return file.stem, recipe
