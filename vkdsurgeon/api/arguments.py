"""Arguments of the public functions, turned into what the library takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vkdsurgeon.api.names import PathLike, RecordSet
from vkdsurgeon.api.recipes import load_recipe
from vkdsurgeon.errors import UserError

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.data.read import Given


def path_of(given: PathLike | None) -> Path | None:
    """A path, or None where none was given."""
    return None if given is None else Path(given)


def model_of(given: PathLike) -> Path:
    """The directory of a model: a path as it is, or the place of `ORG/NAME` in the local Hugging Face cache.

    Raises:
        UserError: The cache does not have this model.
    """
    from vkdsurgeon.files.hub import model_path

    return model_path(given)


def optional_model(given: PathLike | None) -> Path | None:
    """The directory of a model, or None where none was given."""
    return None if given is None else model_of(given)


def paths_of(given: PathLike | Sequence[PathLike]) -> list[Path]:
    """One path or several, as a list."""
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(each) for each in given]


def records_of(given: RecordSet) -> Given:
    """A set as the readers take it: a path, or the records themselves."""
    return Path(given) if isinstance(given, (str, Path)) else given


def optional_records(given: RecordSet | None) -> Given | None:
    """A set as the readers take it, or None where none was given."""
    return None if given is None else records_of(given)


def recipe_of(given: Recipe | Mapping[str, Any] | PathLike | None, preset: str | None) -> Recipe:
    """The recipe that `recipe` and `preset` describe together.

    Raises:
        UserError: As `load_recipe`; or a complete recipe was given together with a preset.
    """
    from vkdsurgeon.config.recipe import Recipe

    if not isinstance(given, Recipe):
        keys = dict(given) if isinstance(given, Mapping) else {}
        path = given if isinstance(given, (str, Path)) else None
        return load_recipe(path, preset, **keys)
    if preset is not None:
        raise UserError(
            "a complete recipe and a preset cannot be combined: the recipe already sets every key",
            where="preset",
            value=preset,
            remedy="use load_recipe(preset=..., key=value) to change single keys of a preset",
        )
    return given
