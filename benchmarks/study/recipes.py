"""The study's recipes: what `vkdsurgeon unlearn` takes, by which method, and which images retention is given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vkdsurgeon.baselines.registry import BASELINES, Method
from vkdsurgeon.config.preset import preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError

# Rows of their own: measured, never unlearned.
RESERVED = ("base", "gold")


class StudyRecipe(BaseModel):
    """One file of `recipes/`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="One line for the table's notes.")
    method: Method = Field(
        Method.vkd, description="As `unlearn --method`; output mode is vkd with the key `output_loss` in `recipe`."
    )
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

    @property
    def feature_mode(self) -> bool:
        """Whether it forgets by features, without the language model."""
        return self.method is Method.vkd and self.settings.output_loss is None

    @property
    def method_name(self) -> str:
        """The method as a row of `compare`, presets apart."""
        return "-".join(filter(None, (self.method.value, self.settings.output_loss)))

    @property
    def effective(self) -> dict[str, Any]:
        """What a row is measured with, all defaults among it, as JSON has it."""
        facts = BASELINES.get(self.method.value)
        return {
            "method": self.method.value,
            "keep": self.keep,
            "recipe": self.settings.model_dump(mode="json"),
            "method_defaults": None if facts is None else asdict(facts),
        }

    @model_validator(mode="after")
    def _the_method_reads_it(self) -> StudyRecipe:
        if self.method is not Method.vkd:
            if unread := sorted({*self.differences} - {"baseline"}):
                raise ValueError(f"method {self.method.value} reads the section `baseline` alone, not {unread}")
            if self.keep != "retain":
                raise ValueError(f"method {self.method.value} keeps answers, which the retain set alone has")
        elif not self.feature_mode and self.settings.decoder is not None:
            raise ValueError("the decoder pass follows feature mode, not an output loss")
        elif self.feature_mode and self.settings.baseline is not None:
            raise ValueError("the section `baseline` is read by other methods and by output mode alone")
        return self


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
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(
            f"not a recipe of the study: {error}", where=file, expected="what, method, keep, preset, recipe"
        ) from None
    if file.stem in RESERVED:
        raise UserError("base and gold are measured beside every recipe", where=file, remedy="give it another name")
    return file.stem, recipe


_SECTIONS = {"settings", "recipe", "decoder", "baseline", "method_defaults"}


def still_holds(then: Any, now: Any) -> bool:
    """Whether what something was made with is still asked for; of keys that are newer, nothing can be told.

    Args:
        then: Settings as they were written down, `StudyRecipe.effective`, or less than that.
        now: The settings of now.
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return bool(then == now)
    return all(
        key in now and (still_holds(value, now[key]) if key in _SECTIONS else value == now[key])
        for key, value in then.items()
    )
