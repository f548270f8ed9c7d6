"""What a search may vary: recipe keys with ranges or choices, as a YAML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.yaml import read_mapping
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import first_problem

STEPS = "steps"
# What these say is how a run is judged, what data it gets or what it costs: no recipe gets better by them.
FIXED = frozenset(
    {"decoder", "validation_share", "forget_reading", "retain_reading", "retain_drift", "micro_batch", "cache_gib"}
)


class Range(BaseModel):
    """Numbers from `low` to `high`; of `steps`, multiples of the number that is derived from the data.

    Attributes:
        low: The smallest value.
        high: The largest value.
        log: Drawn evenly over the logarithm.
        step: Only low, low + step, low + 2 step ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Range:
        if not self.low < self.high:
            raise ValueError("low is not below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError("step is not positive, or larger than the range")
        return self


Dimension = Range | tuple[Any, ...]
"""A range, or a closed list of values."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    extends: Literal["default", "nothing"] = "default"
    search: dict[str, Any] = {}
    start: list[dict[str, Any]] | None = None


class Space(BaseModel):
    """A search space.

    Attributes:
        search: Recipe key -> what it may be.
        start: Points to try after the recipe itself, before anything is drawn; keys that are left out are the recipe's.
    """

    model_config = ConfigDict(frozen=True)

    search: dict[str, Dimension]
    start: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the result and for telling spaces apart."""
        return {
            "search": {
                key: dimension.model_dump(exclude_none=True) if isinstance(dimension, Range) else list(dimension)
                for key, dimension in self.search.items()
            },
            "start": [dict(point) for point in self.start],
        }


DEFAULT = Space(
    search={
        "stand_ins": Range(low=2, high=4),
        "far_share": Range(low=0.1, high=1.0),
        "retain_weight": Range(low=0.5, high=16.0, log=True),
        "distance": ("nmse", "cosine", "smooth_l1"),
        "density": Range(low=0.1, high=1.0),
        "step_drift": Range(low=0.004, high=0.1, log=True),
        "tamper_weight": Range(low=0.0, high=2.0),
        STEPS: Range(low=0.5, high=2.0, step=0.25),
    },
    start=({STEPS: 0.5}, {"retain_weight": 6.0}),
)


def load_space(path: Path | None) -> Space:
    """Read a search space; without a file the default one.

        extends: default                          # or: nothing
        search:
          retain_weight: {low: 1, high: 8, log: true}
          saliency: [forget_gradient, ratio]
          steps: {low: 0.5, high: 2, step: 0.5}   # multiples of the derived number
          step_drift: fixed                       # not searched: as the recipe has it
        start:                                    # points to try first
          - {saliency: ratio}

    Raises:
        UserError: The file cannot be read, or a key, a range or a choice is none of the recipe's.
    """
    if path is None:
        return DEFAULT
    try:
        file = _File.model_validate(read_mapping(path, "search space"))
    except ValidationError as error:
        problem = first_problem(error)
        raise UserError(
            f"not a search space: {problem}",
            where=path,
            value=problem.value,
            expected="a mapping with the keys extends (default or nothing), search and start",
        ) from None
    search = dict(DEFAULT.search) if file.extends == "default" else {}
    for key, value in file.search.items():
        if value == "fixed":
            _known(key, path)
            search.pop(key, None)
        else:
            search[key] = _dimension(key, value, path)
    if not search:
        raise UserError("the search space is empty", where=path, expected="at least one recipe key to search")
    start = file.start
    if start is None:
        start = [] if file.extends == "nothing" else [dict(point) for point in DEFAULT.start]
        start = [point for point in start if all(_inside(search.get(key), value) for key, value in point.items())]
    for point in start:
        for key, value in point.items():
            if key not in search:
                raise UserError(
                    f"a point to start from sets {key!r}, which is not searched", where=path, expected=", ".join(search)
                )
            if not _inside(search[key], value):
                raise _outside(key, value, search[key], f"{path}, start")
    return Space(search=search, start=tuple(start))


def point_of(space: Space, recipe: Recipe, changes: Mapping[str, Any], where: object = "`space`") -> dict[str, Any]:
    """A recipe as a point of the space.

    Args:
        space: The space.
        recipe: Gives what `changes` leaves out; its number of steps counts as 1.
        changes: Values that differ.
        where: For the message.

    Returns:
        Recipe key -> value as the sampler names it: a number, or a choice as JSON.

    Raises:
        UserError: The recipe lies outside the space.
    """
    point = {}
    for key, dimension in space.search.items():
        value = changes.get(key, 1.0 if key == STEPS else recipe.model_dump()[key])
        if not _inside(dimension, value):
            raise _outside(key, value, dimension, where)
        point[key] = value if isinstance(dimension, Range) else named(value)
    return point


def named(value: Any) -> str:
    """A choice by a name that a sampler can keep: its JSON."""
    return json.dumps(value, sort_keys=True)


def recipe_at(recipe: Recipe, point: Mapping[str, Any], space: Space, derived_steps: int) -> Recipe:
    """The recipe that a point stands for.

    Args:
        recipe: Gives all keys that are not searched.
        point: From `point_of`, or drawn.
        space: The space.
        derived_steps: What `steps` counts multiples of.
    """
    settings = recipe.model_dump()
    for key, value in point.items():
        if key == STEPS and isinstance(space.search[key], Range):
            # Left to the data as before where nothing is multiplied, so that the recipe fits other data, too.
            settings[key] = recipe.steps if value == 1.0 else max(round(value * derived_steps), 1)
        elif isinstance(space.search[key], Range):
            settings[key] = value
        else:
            settings[key] = json.loads(value)
    return Recipe.model_validate(settings)


def is_integer(key: str) -> bool:
    """Whether a recipe key takes whole numbers only."""
    return key != STEPS and Recipe.model_fields[key].annotation is int


def _dimension(key: str, value: Any, path: Path) -> Dimension:
    _known(key, path)
    where = f"{path}, search.{key}"
    if isinstance(value, Mapping):
        dimension: Dimension
        try:
            dimension = Range.model_validate(value)
        except ValidationError as error:
            raise UserError(
                f"not a range: {first_problem(error)}",
                where=where,
                value=dict(value),
                expected="low, high, and perhaps log or step",
            ) from None
        ends = [dimension.low, dimension.high]
        if is_integer(key):
            if any(not float(end).is_integer() for end in (*ends, dimension.step or 1)):
                raise UserError("the key takes whole numbers", where=where, value=dict(value))
            ends = [int(end) for end in ends]
        if key == STEPS:
            if dimension.low <= 0:
                raise UserError("a multiple of the derived steps is positive", where=where, value=dimension.low)
            return dimension
    elif isinstance(value, list) and len({named(each) for each in value}) == len(value) > 0:
        dimension, ends = tuple(value), value
    else:
        raise UserError(
            "neither a range, a list of distinct choices, nor `fixed`", where=where, value=value, expected="one of them"
        )
    for end in ends:
        _check(key, end, where)
    return dimension


def _check(key: str, value: Any, where: str) -> None:
    try:
        Recipe.model_validate({key: value})
    except ValidationError as error:
        raise UserError(
            f"the recipe does not accept this value: {first_problem(error).message}",
            where=where,
            value=value,
            expected=Recipe.model_fields[key].description,
        ) from None


def _known(key: str, path: Path) -> None:
    open_keys = [name for name in Recipe.model_fields if name not in FIXED]
    if key in FIXED:
        raise UserError(
            f"key {key!r} cannot be searched: it sets how runs are judged, or which data or resources they use",
            where=path,
            expected="one of " + ", ".join(open_keys),
            remedy="set it in the recipe (`recipe`)",
        )
    if key not in Recipe.model_fields:
        raise UserError(
            f"unknown key {key!r} in the search space", where=path, expected="one of " + ", ".join(open_keys)
        )


def _inside(dimension: Dimension | None, value: Any) -> bool:
    if dimension is None:
        return False
    if not isinstance(dimension, Range):
        return named(value) in map(named, dimension)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    away = (value - dimension.low) / dimension.step
    return abs(away - round(away)) < 1e-9


def _outside(key: str, value: Any, dimension: Dimension, where: object) -> UserError:
    shown = dimension.model_dump(exclude_none=True) if isinstance(dimension, Range) else list(dimension)
    return UserError(
        f"the value of {key!r} that the search is to start from lies outside the search space",
        where=where,
        value=value,
        expected=f"a value within {shown}",
        remedy="widen the space, or start from another recipe with `recipe`",
    )
