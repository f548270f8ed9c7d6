"""The recipe: one model for file, flags and record."""

import re
from pathlib import Path

import pytest
import yaml

from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.files import dump_recipe, load_recipe
from vkdsurgeon.config.keys import parse_settings, recipe_keys
from vkdsurgeon.config.preset import preset_names, preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("steps: 7\ndensity: 0.3\n")
    recipe = load_recipe(file, {"steps": 9})
    assert (recipe.steps, recipe.density, recipe.copies) == (9, 0.3, Recipe().copies)


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4"])
def test_numbers_may_be_written_as_people_write_them(tmp_path: Path, written: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"weight_decay: {written}\n")
    assert load_recipe(file, {}).weight_decay == 1e-4


def test_the_effective_recipe_reads_back(tmp_path: Path):
    recipe = Recipe(layers={"layer.2": 0.5, "projector": 1.0}, density=0.1)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(file, {}) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 5", "unknown key 'stepz'"),
        ("steps: many", "recipe key 'steps'"),
        ("density: 0", "recipe key 'density'"),
        ("density: 1.5", "recipe key 'density'"),
        ("step_size: -1", "recipe key 'step_size'"),
        ("layers: {}", "recipe key 'layers'"),
        ("layers: {projector: -1}", "recipe key 'layers'"),
        ("distance: manhattan", "recipe key 'distance'"),
        ("forget_target: everybody", "recipe key 'forget_target'.*'nobody', 'swap'"),
        ("saliency: tarot", "recipe key 'saliency'.*'random'"),
        ("retain_layers: {}", "recipe key 'retain_layers'"),
        ("retain_layers: {projector: 0}", "recipe key 'retain_layers'.*positive weight"),
        ("tamper_steps: 0", "recipe key 'tamper_steps'"),
        ("tamper_weight: -1", "recipe key 'tamper_weight'"),
        ("tamper_goal: everything", "recipe key 'tamper_goal'.*'identity' or 'both'"),
        ("step_drift: 1.0", "recipe key 'step_drift'"),
        ("tamper_size: .nan", "recipe key 'tamper_size'"),
        ("depth: 0", "recipe key 'depth'.*'all', 'projector'"),
        ("depth: half", "recipe key 'depth'.*'all', 'projector'"),
        ("depth: true", "recipe key 'depth'"),
        ("[1, 2]", "not a mapping"),
        ("steps: [", "not YAML"),
    ],
)
def test_wrong_recipes_are_refused_by_key(tmp_path: Path, text: str, message: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(file, {})
    assert str(file) in str(caught.value)


def test_retention_is_as_forgetting_unless_said_otherwise(tmp_path: Path):
    assert Recipe(layers={"layer.1": 2.0}).retention_layers == {"layer.1": 2.0}
    file = tmp_path / "recipe.yaml"
    file.write_text("retain_layers: {projector: 1}\n")
    assert load_recipe(file, {}).retention_layers == {"projector": 1.0}


def test_depth_is_a_word_or_a_number_in_a_file_and_as_a_flag(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("depth: 3\n")
    assert load_recipe(file, {}).depth == load_recipe(None, {"depth": "3"}).depth == 3
    assert load_recipe(file, {"depth": "projector"}).depth == "projector"


def test_a_missing_recipe_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read"):
        load_recipe(tmp_path / "absent.yaml", {})


def test_every_key_can_be_set_alone():
    given = ["layers=layer.1=0.5,projector", "density=0.5", "retain_layers=layer.2,projector=3", "depth=3"]
    given += ["steps=null", "decoder.steps=200", "decoder.checkpointing=on", "baseline.refusals=[maybe, never]"]
    given += ["step_size=1e-3"]
    assert parse_settings(given) == {
        "layers": {"layer.1": 0.5, "projector": 1.0},
        "density": 0.5,
        "retain_layers": {"layer.2": 1.0, "projector": 3.0},
        "depth": 3,
        "steps": None,
        "decoder": {"steps": 200, "checkpointing": "on"},
        "baseline": {"refusals": ["maybe", "never"]},
        "step_size": 1e-3,
    }
    assert load_recipe(None, parse_settings(given)).decoder == DecoderRecipe(steps=200, checkpointing="on")
    assert parse_settings(["density=0.25", "density=0.5"]) == {"density": 0.5}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("density", "not a setting"),
        ("=1", "not a setting"),
        ("densty=1", "did you mean 'density'"),
        ("decoder.stepz=1", "did you mean 'decoder.steps'"),
        ("npo_beta=1", "did you mean 'baseline.npo_beta'"),
        ("decoder=1", "a section, not a key"),
        ("layers=projector=much", "not a weight"),
    ],
)
def test_a_setting_that_is_none_is_told_with_what_was_meant(word: str, told: str):
    with pytest.raises(UserError, match=re.escape(told)):
        parse_settings([word])


def test_a_key_of_a_file_is_told_with_what_was_meant(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("decoder: {stepz: 5}\n")
    with pytest.raises(UserError, match=r"did you mean 'steps'"):
        load_recipe(file, {})


def test_every_key_is_listed_with_type_default_and_meaning():
    keys = {each.key: each for each in recipe_keys()}
    own = set(Recipe.model_fields) - {"decoder", "baseline"}
    decoder = {f"decoder.{key}" for key in DecoderRecipe.model_fields}
    assert set(keys) == own | decoder | {f"baseline.{key}" for key in BaselineRecipe.model_fields}
    assert all(each.meaning and each.type for each in keys.values())
    assert keys["density"].presets == {"robust": 1.0}
    assert (keys["steps"].type, keys["steps"].default) == ("integer or null", None)
    assert keys["decoder.blocks"].type == "all | attention | mlp"


def test_presets_are_recipes_and_the_default_one_is_the_default():
    assert preset_names() == ("decoder", "default", "robust")
    assert load_recipe(None, {}, "default") == Recipe()
    assert load_recipe(None, {}, "robust").tamper_weight > 0
    assert load_recipe(None, {}, "robust").decoder is None, "W stays as it is"
    assert load_recipe(None, {}, "decoder").decoder is not None


def test_a_file_wins_over_the_preset_and_flags_over_both(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("steps: 7\ntamper_weight: 0.25\ndecoder: {steps: 5, density: 0.5}\n")
    recipe = load_recipe(file, {"steps": 9, "decoder": {"density": 0.125}}, "robust")
    assert (recipe.steps, recipe.tamper_weight) == (9, 0.25)
    assert recipe.identity_weight == preset_settings("robust")["identity_weight"]
    assert recipe.decoder is not None
    assert (recipe.decoder.steps, recipe.decoder.density) == (5, 0.125)


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(UserError, match="no such preset") as caught:
        load_recipe(None, {}, "../../etc/passwd")
    assert "one of decoder, default, robust" in str(caught.value)


def test_the_defaults_are_yaml_scalars():
    assert yaml.safe_load(dump_recipe(Recipe())) == Recipe().model_dump()


def test_output_mode_derives_its_own_defaults_and_leaves_what_is_given():
    derived = Recipe(output_loss="npo").fitted(1000)
    assert (derived.steps, derived.retain_weight) == (60, 10.0)
    given = Recipe(output_loss="npo", steps=7, retain_weight=2.0).fitted(1000)
    assert (given.steps, given.retain_weight) == (7, 2.0)
    assert (derived.density, derived.copies, derived.tamper_weight) == (0.25, 0, 0.0)
    assert Recipe().fitted(16).retain_weight == 2.0


def test_the_section_of_other_methods(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("baseline: {steps: 5, refusals: [No idea.]}\n")
    baseline = load_recipe(file, {"baseline": {"npo_beta": 0.1}}).baseline
    assert baseline is not None
    assert (baseline.steps, baseline.refusals, baseline.npo_beta) == (5, ["No idea."], 0.1)
    with pytest.raises(UserError, match=r"unknown key 'baseline\.npo'"):
        load_recipe(file, {"baseline": {"npo": 1}})
