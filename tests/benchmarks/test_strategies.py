"""The study of strategies: no strategy is left out, and what was not run says so."""

from typing import get_args

from benchmarks.strategies import CASES, table
from vkdsurgeon.config.forgetting import Distance, ForgetTarget
from vkdsurgeon.config.mask import Saliency
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.retention import RetainDistance


def test_every_strategy_of_the_recipe_has_a_row():
    recipes = [Recipe.model_validate(case.overrides) for case in CASES]
    assert {recipe.forget_target for recipe in recipes} == set(get_args(ForgetTarget))
    assert {recipe.saliency for recipe in recipes} == set(get_args(Saliency))
    assert {name for recipe in recipes for name in recipe.retention_distance} == set(get_args(RetainDistance))
    assert {recipe.granularity for recipe in recipes} == set(get_args(Recipe.model_fields["granularity"].annotation))
    assert {recipe.distance for recipe in recipes} == set(get_args(Distance))
    assert all(len(case.overrides) == 1 for case in CASES[1:]), "a row differs from the default in one choice"
    assert [case.name for case in CASES if case.teacher] == ["reference (gold)"]


def test_the_table_shows_what_was_measured_and_owns_up_to_the_rest():
    accuracy = {"base": 1.0, "unlearned": 0.125, "gold": 0.0}
    row = {
        "choice": "saliency",
        "name": "fisher",
        **dict.fromkeys(("forget.vqa.name", "forget.general", "retain.vqa"), accuracy),
        "forget.attributes.no_coincidence": {"base": 1.0, "unlearned": 0.25, "gold": 0.1},
        "forget_ratio": 0.3,
        "retain_drift": 0.02,
        "stop_rule_met": False,
    }
    lines = table([row]).splitlines()
    assert "| saliency | fisher | 12.5 | 25.0 | 12.5 | 12.5 | 0.300 (not met) | 0.020 |" in lines
    assert sum("not measured" in line for line in lines) == len(CASES) - 1
