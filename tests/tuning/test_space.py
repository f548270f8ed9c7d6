"""Search spaces: what is accepted, what is refused, and which recipe a point stands for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.config.files import load_recipe
from vkdsurgeon.config.preset import preset_names
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.space import DEFAULT, Range, Space, is_integer, load_space, named, point_of, recipe_at


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def points(space: Space) -> st.SearchStrategy[dict[str, Any]]:
    drawn = {}
    for key, dimension in space.search.items():
        if not isinstance(dimension, Range):
            drawn[key] = st.sampled_from([named(choice) for choice in dimension])
        elif is_integer(key):
            drawn[key] = st.integers(int(dimension.low), int(dimension.high))
        else:
            drawn[key] = st.floats(dimension.low, dimension.high)
    return st.fixed_dictionaries(drawn)


@given(point=points(DEFAULT), steps=st.integers(1, 100_000))
def test_every_point_of_the_default_space_is_a_recipe(point: dict[str, Any], steps: int):
    recipe = recipe_at(Recipe(), point, DEFAULT, steps)
    assert recipe.distance == point["distance"].strip('"')
    assert recipe.tamper_weight == point["tamper_weight"]
    assert recipe.steps is None if point["steps"] == 1.0 else recipe.steps == max(round(point["steps"] * steps), 1)
    assert recipe.validation_share == Recipe().validation_share


def test_the_default_recipe_is_a_point_and_comes_back_as_it_is():
    assert recipe_at(Recipe(), point_of(DEFAULT, Recipe(), {}), DEFAULT, 200) == Recipe()
    given_steps = Recipe(steps=50)
    assert recipe_at(given_steps, point_of(DEFAULT, given_steps, {}), DEFAULT, 50) == given_steps


@pytest.mark.parametrize("preset", preset_names())
def test_the_default_space_holds_every_preset(preset: str):
    recipe = load_recipe(None, {}, preset)
    assert recipe_at(recipe, point_of(DEFAULT, recipe, {}), DEFAULT, recipe.fitted(48).planned_steps) == recipe


def test_a_file_restricts_and_extends(tmp_path: Path):
    space = load_space(
        written(
            tmp_path,
            "search:\n  tamper_weight: fixed\n  density: {low: 0.2, high: 0.6}\n  stand_ins: {low: 1, high: 2}\n"
            "  retain_layers: [null, {layer.1: 1.0, projector: 0.5}]\n",
        )
    )
    assert set(space.search) == set(DEFAULT.search) - {"tamper_weight"} | {"retain_layers"}
    assert space.search["density"] == Range(low=0.2, high=0.6)
    assert space.start == DEFAULT.start
    point = point_of(space, Recipe(), {"retain_layers": {"layer.1": 1.0, "projector": 0.5}, "stand_ins": 1})
    recipe = recipe_at(Recipe(), point, space, 200)
    assert recipe.retain_layers == {"layer.1": 1.0, "projector": 0.5}
    assert recipe.stand_ins == 1


def test_a_file_can_start_from_nothing(tmp_path: Path):
    space = load_space(written(tmp_path, "extends: nothing\nsearch: {steps: [100, 200, null]}\nstart: [{steps: 100}]"))
    assert set(space.search) == {"steps"}
    assert recipe_at(Recipe(), point_of(space, Recipe(steps=200), {"steps": 100}), space, 200).steps == 100


def test_points_to_start_from_go_with_their_choices(tmp_path: Path):
    assert load_space(written(tmp_path, "search: {steps: fixed}")).start == ({"retain_weight": 6.0},)
    assert load_space(written(tmp_path, "search: {steps: fixed, retain_weight: {low: 1, high: 3}}")).start == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("search: {alhpa: {low: 1, high: 2}}", "unknown key 'alhpa'"),
        ("search: {forget_reading: {low: 0.1, high: 2}}", "cannot be searched"),
        ("search: {micro_batch: fixed}", "cannot be searched"),
        ("search: {density: {low: 0.1, high: 2}}", "does not accept this value"),
        ("search: {saliency: [forget_gradient, magic]}", "does not accept this value"),
        ("search: {tamper_weight: {low: 2, high: 1}}", "low is not below high"),
        ("search: {tamper_weight: {low: 0, high: 1, log: true}}", "starts above 0"),
        ("search: {tamper_weight: {low: 1, high: 2, steps: 3}}", "not a range"),
        ("search: {stand_ins: {low: 1.5, high: 3}}", "whole numbers"),
        ("search: {steps: {low: 0, high: 2}}", "positive"),
        ("search: {tamper_weight: 3}", "neither a range"),
        ("search: {tamper_weight: []}", "neither a range"),
        ("search: {distance: [nmse, nmse]}", "neither a range"),
        ("extends: nothing", "empty"),
        ("extend: default", "not a search space"),
        ("- tamper_weight", "search space is not a mapping"),
        ("search: {tamper_weight: [", "not YAML"),
        ("start: [{tamper_weight: 9}]", "outside the search space"),
        ("start: [{depth: 1}]", "not searched"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(UserError, match=told):
        load_space(written(tmp_path, text))


def test_a_recipe_outside_the_space_is_refused(tmp_path: Path):
    space = load_space(written(tmp_path, "search: {tamper_weight: {low: 1.5, high: 2}}"))
    with pytest.raises(UserError, match=r"'tamper_weight'.*outside the search space"):
        point_of(space, Recipe(tamper_weight=1.4), {})
    point_of(space, Recipe(tamper_weight=1.5), {})


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read the search space"):
        load_space(tmp_path / "none.yaml")
