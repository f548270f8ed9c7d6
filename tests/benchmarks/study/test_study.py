"""The study from nothing: two training steps per kind and style, one recipe with two steps, the tables of its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run as vkdsurgeon

from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.model import Shape
from benchmarks.miniature_model.people import Size
from benchmarks.miniature_model.train import Plan
from benchmarks.study.__main__ import main
from benchmarks.study.attacks import GRID, QUICK, Attack
from benchmarks.study.cases import Case, grid, minted, place_of, role_of
from benchmarks.study.measure import attributes
from benchmarks.study.mint import Scale, mint
from benchmarks.study.recipes import StudyRecipe, load
from benchmarks.study.run import run
from benchmarks.study.table import tables
from benchmarks.study.unlearning import unlearn
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.comparison.methods import compared_method
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.config.shard import Shard
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError

TINY = Scale(
    Size(2, 6, views=2, extra_views=1, forget_heldout=1, retain_heldout=1, strangers=2, stranger_views=1),
    Shape(32, 3, 64, 2, 32, 2, 48, 2),
    Plan(tower_strangers=12, tower_views=2, tower_steps=2, steps=2, pictures=4, facts=2, general=2, text_rows=1),
)
LIGHT = {"steps": 2, "extensions": 0, "forget_batch": 4, "retain_batch": 4, "copies": 0, "tamper_weight": 0.0}
SHORT = StudyRecipe(what="two steps", recipe=LIGHT)
ATTACKS = tuple(replace(attack, steps=1) for attack in GRID[::4])
RECIPES = Path("benchmarks/study/recipes")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind once, and one of them in another style and with two forget sets."""
    root = tmp_path_factory.mktemp("cases")
    for case in (*(Case(kind, "robots") for kind in KINDS), Case("llava", "avatars"), Case("llava", "avatars", "b")):
        mint(case, root, scale=TINY)
    return root


@pytest.fixture(scope="module")
def rows(cases: Path) -> Path:
    """One recipe on one case of every kind, attacked once by every protocol."""
    out = cases / "rows.jsonl"
    places = [place_of(Case(kind, "robots"), cases) for kind in KINDS]
    run(places, {"default": SHORT}, [0], ATTACKS, out=out)
    return out


def test_cases_of_one_world_share_their_base_and_what_is_there_stays(cases: Path) -> None:
    world = cases / "llava-avatars"
    assert sorted(path.name for path in world.iterdir() if path.is_dir()) == [
        "base-0", "gold-a-0", "gold-b-0", "records-a", "records-b",
    ]  # fmt: skip
    assert len(list(minted(cases))) == len(KINDS) + 2
    stamp = (world / "base-0" / "config.json").stat().st_mtime_ns
    mint(Case("llava", "avatars", "b"), cases, scale=TINY)
    assert (world / "base-0" / "config.json").stat().st_mtime_ns == stamp
    card = json.loads((world / "gold-b-0.json").read_text())
    assert 0 <= card["accuracy"]["retain.vqa.name"] <= 1
    first, second = (_subjects(world / f"records-{name}" / "forget.jsonl") for name in "ab")
    assert len(first) == len(second) == 2
    assert not first & second


@pytest.mark.parametrize(
    "kind", [*list(KINDS)[:3], *(pytest.param(kind, marks=pytest.mark.campaign) for kind in list(KINDS)[3:])]
)
def test_the_command_line_takes_every_kind(cases: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = place_of(Case(kind, "robots"), cases)
    assert vkdsurgeon(["inspect", str(place.base), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_type"] == kind
    sets = ["--forget", str(place.records / "forget.jsonl"), "--retain", str(place.records / "retain.jsonl")]
    assert vkdsurgeon(["unlearn", str(place.base), *sets, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["forget_subjects"] == 2


def test_a_row_holds_answers_attacks_and_what_unlearning_took(rows: Path) -> None:
    found = _rows(rows)
    assert [(row["case"], row["recipe"]) for row in found] == [
        (f"{kind}-robots-a-0", recipe) for kind in KINDS for recipe in ("base", "gold", "default")
    ]
    names = {attack.name for attack in ATTACKS}
    for base, gold, unlearned in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert base["role"] == "reporting"
        assert base["attacks"] == {}
        assert set(gold["attacks"]) == set(unlearned["attacks"]) == names
        facts = unlearned["unlearning"]
        assert facts["steps"] == 2
        assert facts["trained_ratio"] > 0
        assert facts["language_tensors_identical"]
        assert unlearned["values"]["text_digest"] == base["values"]["text_digest"]
        assert gold["values"]["text_digest"] != base["values"]["text_digest"]
        assert 0 < facts["selected_elements"] < 0.5 * facts["elements"], "half of what depth leaves"
        asked = {name.split("/")[0]: attack["asked"] for name, attack in unlearned["attacks"].items()}
        assert asked["benign"] == 2 * asked["people"] == 10
        hits = unlearned["values"]["attribute_hits"]
        assert len(hits) == 2 * 4
        assert set(unlearned["coincidences"]) <= set(hits)
        world = rows.parent / unlearned["case"].removesuffix("-a-0")
        assert not any(name in json.dumps(unlearned) for name in _subjects(world / "records-a" / "forget.jsonl"))


def test_rows_that_are_there_are_skipped_and_missing_attacks_added(rows: Path) -> None:
    before, lines = rows.read_text(), list[str]()
    place = place_of(Case("llava", "robots"), rows.parent)
    run([place], {"default": SHORT}, [0], ATTACKS[:2], out=rows, tell=lines.append)
    assert lines == []
    assert rows.read_text() == before
    more = replace(ATTACKS[0], steps=2)
    other = rows.with_name("more.jsonl")
    other.write_text(before)
    run([place], {"default": SHORT}, [0], [more], out=other, tell=lines.append)
    assert len(lines) == 2
    changed = [row for row in _rows(other) if row["case"] == place.name and row["recipe"] == "default"]
    assert len(changed) == 1
    assert set(changed[0]["attacks"]) == {attack.name for attack in (*ATTACKS, more)}
    run([place], {"default": SHORT.model_copy(update={"keep": "generic"})}, [0], [], out=other, tell=lines.append)
    assert len(lines) == 3
    latest = [row for row in _rows(other) if row["case"] == place.name and row["recipe"] == "default"]
    assert latest[-1]["settings"]["keep"] == "generic"


def test_rows_of_shards_put_one_behind_the_other_are_those_of_one_run(rows: Path, tmp_path: Path) -> None:
    places = [place_of(Case(kind, "robots"), rows.parent) for kind in list(KINDS)[:2]]
    asked = ({"default": SHORT}, [0], ATTACKS[:1])
    for number in range(2):
        run(places, *asked, out=tmp_path / f"{number}.jsonl", shard=Shard(number, 2))
    parts = [_rows(tmp_path / f"{number}.jsonl") for number in range(2)]
    keys = [[(row["case"], row["recipe"]) for row in part] for part in parts]
    names = [place.name for place in places]
    assert keys[0] == [(names[0], "base"), (names[0], "default"), (names[1], "gold")]
    assert keys[1] == [(names[0], "gold"), (names[1], "base"), (names[1], "default")]
    together = tmp_path / "together.jsonl"
    together.write_text("".join((tmp_path / f"{number}.jsonl").read_text() for number in (1, 0)))
    whole = {(row["case"], row["recipe"]): row for row in _rows(rows)}
    for row in _rows(together):
        one = whole[row["case"], row["recipe"]]
        assert (row["values"], row["settings"], row["role"]) == (one["values"], one["settings"], one["role"])
        for name, attack in row["attacks"].items():
            assert {**attack, "seconds": 0} == {**one["attacks"][name], "seconds": 0}
    lines: list[str] = []
    run(places, *asked, out=together, tell=lines.append)
    assert lines == [], "a run over all finds every row"


@pytest.mark.parametrize(
    ("key", "value", "again"),
    [("steps", 3, True), ("layers", {}, True), ("nothing_yet", 1, True), (None, None, False)],
)
def test_a_row_that_was_measured_with_another_default_is_measured_again(
    rows: Path, tmp_path: Path, key: str | None, value: object, again: bool
) -> None:
    """The recipe's own file need not have changed for it."""
    place, lines, out = place_of(Case("llava", "robots"), rows.parent), list[str](), tmp_path / "rows.jsonl"
    found = _rows(rows)
    for row in found:
        if row["recipe"] == "default" and key is None:
            del row["settings"]["recipe"]["decay"]
        elif row["recipe"] == "default":
            row["settings"]["recipe"][key] = value
    out.write_text("".join(json.dumps(row) + "\n" for row in found))
    run([place], {"default": SHORT}, [0], [], out=out, tell=lines.append)
    assert bool(lines) == again


def test_a_kept_checkpoint_is_attacked_later_unless_it_does_not_fit(cases: Path, tmp_path: Path) -> None:
    place = place_of(Case("llava", "robots"), cases)
    recipe = StudyRecipe(what="", method="graddiff", recipe={"baseline": {"steps": 2}})
    out, keep = tmp_path / "rows.jsonl", tmp_path / "kept"
    kept = keep / f"{place.name}-graddiff-0"

    def measured(recipe: StudyRecipe, attacks: Sequence[Attack]) -> tuple[dict[str, Any], int]:
        run([place], {"graddiff": recipe}, [0], attacks, out=out, keep=keep)
        return _rows(out)[-1], kept.with_name(f"{kept.name}.json").stat().st_mtime_ns

    first, made = measured(recipe, [])
    attacked, found = measured(recipe, ATTACKS[:1])
    assert found == made
    assert attacked["unlearning"] == first["unlearning"]
    assert attacked["values"] == first["values"]
    assert len(attacked["attacks"]) == 1
    assert attacked["restore"] == {name: first["values"][name] for name in ("name", "vqa")}

    shard = next(kept.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert measured(recipe, ATTACKS[:2])[1] != found
    assert next(kept.glob("*.safetensors")).read_bytes() == whole

    longer = recipe.model_copy(update={"recipe": {"baseline": {"steps": 3}}})
    assert measured(longer, [])[0]["unlearning"]["steps"] == 3


def test_the_decoder_pass_is_restored(cases: Path) -> None:
    decoder = StudyRecipe(what="", recipe={**SHORT.recipe, "decoder": {"steps": 2, "seek_steps": 1}})
    out = cases / "decoder.jsonl"
    run([place_of(Case("llava", "robots"), cases)], {"decoder": decoder}, [0], [], out=out)
    row = _rows(out)[-1]
    assert set(row["restore"]) == {"name", "vqa"}
    assert not row["unlearning"]["language_tensors_identical"]
    assert row["unlearning"]["decoder_selected_elements"] > 0
    assert row["unlearning"]["seconds"] >= row["unlearning"]["decoder_seconds"]
    (line,) = [line for line in tables(out).splitlines() if "| restore name ≤ gold + 3 |" in line]
    # Tables without rows of their own kind leave the columns out.
    assert "| edited W: text ≥ base − 1 |" in line
    assert "| pairs/60/0.0003 ≤ gold + 15 |" in line
    assert "| text identical |" not in line
    assert "| original V + P put back: name |" in tables(out)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"method": "graddiff", "recipe": {"baseline": {"steps": 2}}}, "--method graddiff --set baseline.steps=2"),
        ({"method": "manu"}, "--method manu --text TEXT"),
        ({"recipe": {"output_loss": "npo", "steps": 2}}, "--set output_loss=npo --steps 2"),
    ],
)
def test_another_method_and_output_mode_do_what_the_command_line_does(
    cases: Path, tmp_path: Path, recipe: dict[str, Any], words: str
) -> None:
    place = place_of(Case("llava", "robots"), cases)
    found = unlearn(place, StudyRecipe(what="", **recipe), 0, tmp_path / "study")
    given, asked = divide_text(read_records(place.records / "text.jsonl", role="text"))
    assert given
    assert asked
    words = words.replace("TEXT", str(write_text(given, tmp_path / "text.jsonl")))
    sets = ["--forget", str(place.records / "forget.jsonl"), "--retain", str(place.records / "retain.jsonl")]
    out = tmp_path / "out"
    assert vkdsurgeon(["unlearn", str(place.base), *sets, "-o", str(out), *words.split()]) == 0
    digests = {weights_digest(root, take_inventory(root).shards) for root in (place.base, found.root, out)}
    assert len(digests) == 2
    facts = found.facts
    assert facts["steps"] == (0 if recipe.get("method") == "manu" else 2)
    assert 0 < facts["changed_elements"] <= facts["selected_elements"] <= facts["elements"]
    assert facts["language_tensors_identical"] == ("output_loss" in recipe.get("recipe", {}))
    assert "stop_rule_met" not in facts
    assert not found.stand_ins


def test_tables_show_every_case_and_which_bounds_hold(rows: Path) -> None:
    text = tables(rows)
    assert text.startswith("### Cases for reporting")
    assert "### Cases for tuning" not in text
    for kind in KINDS:
        assert f"| {kind}-robots-a-0 | 0 | default |" in text
    assert "identical" in text
    assert "| **not measured** |" not in text


def test_paired_differences_and_bounds_are_those_of_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    made = [
        _made(f"llava-avatars-{letter}-0", recipe, name, retain)
        for letter, low in (("a", 0.0), ("b", 0.1), ("c", 0.2))
        for recipe, name, retain in (
            ("base", 1.0, 1.0),
            ("gold", 0.0, 1.0),
            ("default", low, 0.99),
            ("other", 0.4, 0.9),
        )
    ]
    out.write_text("".join(json.dumps(row) + "\n" for row in made))
    lines = tables(out).splitlines()
    after = lines[lines.index("| default | mean | cases | minus base | minus gold | minus default |") :]
    assert after[2] == "| name | 10.0 | 3 | -90.0 [-100.0, -80.0] | +10.0 [+0.0, +20.0] |  |"
    other = lines[lines.index("| other | mean | cases | minus base | minus gold | minus default |") :]
    assert other[2] == "| name | 40.0 | 3 | -60.0 [-60.0, -60.0] | +40.0 [+40.0, +40.0] | +30.0 [+20.0, +40.0] |"
    # Of four attributes one is a coincidence of `default`, and all of its answers are right.
    assert after[3].startswith("| attributes | 0.0 | 3 | -100.0")
    verdicts = [line for line in lines if line.startswith("| llava-avatars-a-0 | 0 | default | 0.0 |")]
    assert verdicts[-1].startswith(
        "| llava-avatars-a-0 | 0 | default | 0.0 | 99.0 | 100.0 | yes | 0.5 | not measured |"
    )
    assert "| llava-avatars-b-0 | 0 | default | **10.0** | 99.0 |" in "\n".join(lines)
    assert "| llava-avatars-a-0 | 0 | other | **40.0** | **90.0** |" in "\n".join(lines)


def test_the_overview_means_what_all_recipes_share(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    cases = [f"llava-avatars-{letter}-0" for letter in "ac"]
    made = [_made(name, recipe, 0.0, 1.0) for name in cases for recipe in ("base", "gold")]
    made += [_made(name, "default", low, 0.9) for name, low in zip(cases, (0.0, 0.1), strict=True)]
    made += [_made(cases[1], "npo", 0.02, 0.8), _made(cases[0], "swap", 0.4, 1.0)]
    made[-2]["unlearning"] = {
        "method": "npo", "seconds": 8.0, "cpu_seconds": 6.0, "steps": 50, "language_tensors_identical": False,
    }  # fmt: skip
    made[-2]["values"]["text"], made[-2]["restore"] = 0.98, {"name": 0.04, "vqa": 0.1}
    made[-2]["attacks"] = {}
    out.write_text("".join(json.dumps(row) + "\n" for row in made))
    lines = tables(out, recipes=["default", "npo"], summary=True).splitlines()
    assert lines[2].startswith("Means over what all these recipes were measured on, 1 case.")
    head = lines.index("| recipe | rows | name | attributes | general | retain | text | people15 | restore | seconds |")
    assert lines[head + 4 : head + 6] == [
        "| default | 1 | 10.0 | 0.0 | 100.0 | 90.0 | 100.0 | 0.5 |  | 1 |",
        "| npo | 1 | 2.0 | 0.0 | 100.0 | 80.0 | 98.0 |  | 4.0 | 8 |",
    ]
    assert lines[-2:] == [
        "| default | 1 | 1 | 1 to 1 |  |  | 400 | 400 to 400 |",
        "| npo | 1 | 8 | 8 to 8 |  | 6 | 50 | 50 to 50 |",
    ]
    everything = tables(out).splitlines()
    # No case has all three.
    assert any("**not the same for all**" in line for line in everything)
    assert "| default | 2 | 5.0 | 0.0 | 100.0 | 90.0 | 100.0 | 0.5 |  | 1 |" in everything
    bounds = [line for line in everything if line.startswith(f"| {cases[1]} | 0 | npo | 2.0 | **4.0** |")]
    assert bounds == [
        f"| {cases[1]} | 0 | npo | 2.0 | **4.0** | **80.0** | 100.0 |  | **98.0** |" + " not measured |" * 4
    ]
    with pytest.raises(UserError, match="no results of such a recipe"):
        tables(out, recipes=["nobody"])


def test_attributes_leave_coincidences_out() -> None:
    hits = {"0.city": [3, 4], "0.food": [0, 4], "1.city": [4, 4]}
    assert attributes(hits, ()) == pytest.approx(7 / 12, abs=1e-4)
    assert attributes(hits, ["0.city"]) == 0.5
    assert attributes(hits, list(hits)) is None


def test_the_grid_is_complete_and_every_case_has_one_role(tmp_path: Path) -> None:
    names = [case.name for case in grid()]
    assert len(set(names)) == 7 * 2 * 3 * 3
    assert [role_of(name) for name in names].count("reporting") == 84
    assert role_of("llava-avatars-b-2") == "tuning"
    assert role_of("shipped") == "tuning"
    roles = tmp_path / "roles.yaml"
    roles.write_text("tuning: ['llava-*']\nreporting: ['*']\n")
    with pytest.raises(UserError, match="tuning or for reporting"):
        role_of(names[0], roles)
    assert len(GRID) == 4 * 2 * 2
    assert set(QUICK) < set(GRID)


def test_the_recipes_of_the_study_are_recipes() -> None:
    found = dict(load(file) for file in sorted(RECIPES.glob("*.yaml")))
    assert {"default", "robust", "random_mask", "no_retain", "decoder", "swap"} <= set(found)
    assert found["robust"].differences["identity_weight"] == found["robust"].settings.identity_weight > 0
    assert found["default"].recipe == {}
    assert found["random_mask"].settings.density == found["default"].settings.density
    assert found["no_retain"].keep == "built-in"
    for name in ("ga", "graddiff", "klmin", "npo", "manu", "mmunlearner"):
        assert found[name].method_name == name
        assert found[name].settings.baseline is None
        assert (found[name].method.value, found[name].keep, found[name].differences) == (name, "retain", {})
    for loss in ("npo", "idk", "ga", "uniform"):
        assert found[f"{loss}_vkd"].settings.model_dump(exclude_unset=True) == compared_method(f"vkd-{loss}").overrides
    # Rows of feature mode that were measured before there were methods stay what they are.
    assert (found["default"].keep, found["default"].differences) == ("retain", {})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"method": "npo", "recipe": {"steps": 2}}, "baseline"),
        ({"method": "npo", "keep": "generic"}, "retain set"),
        ({"recipe": {"baseline": {"steps": 2}}}, "output mode alone"),
        ({"recipe": {"output_loss": "npo", "decoder": {}}}, "decoder pass"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyRecipe(what="", **recipe)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mint", "--kind", "clip", "--out", "OUT"], "clip"),
        (["mint", "--kind", "llava", "--style", "oil", "--out", "OUT"], "oil"),
        (["mint", "--kind", "llava", "--forget-set", "d", "--out", "OUT"], "--forget-set"),
        (["mint", "--kind", "llava", "--seed", "-1", "--out", "OUT"], "negative"),
        (["run", "--cases", "OUT"], "make it first"),
        (["run", "--recipes", "OUT/none.yaml"], "cannot be read"),
        (["run", "--recipes", "OUT/broken.yaml"], "densty"),
        (["run", "--recipes", "OUT/gold.yaml"], "base and gold"),
        (["table", "--rows", "OUT/none.jsonl"], "no results"),
    ],
)
def test_wrong_words_end_with_status_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text("what: misspelt\nrecipe:\n  densty: 0.1\n")
    (tmp_path / "gold.yaml").write_text("what: reserved\n")
    with pytest.raises(SystemExit) as ended:
        main([word.replace("OUT", str(tmp_path)) for word in words])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def _subjects(file: Path) -> set[str]:
    return {json.loads(line)["subject"] for line in file.read_text().splitlines()}


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _made(case: str, recipe: str, name: float, retain: float) -> dict[str, Any]:
    hits = {f"0.{kind}": [10 if recipe == "base" or kind == "city" else 0, 10] for kind in ("city", "food", "hobby")}
    row: dict[str, Any] = {
        "case": case,
        "role": "reporting",
        "recipe": recipe,
        "seed": 0,
        "settings": None,
        "values": {
            "name": name, "general": 1.0, "retain": retain, "retain_general": 1.0, "text": 1.0, "text_digest": "x",
            "attribute_hits": hits,
        },
        "attacks": {"people/15/0.0003": {"ag": 0.5, "before": 0.0, "after": 0.005, "retain_after": 0.9}},
        "device": {},
        "versions": {},
    }  # fmt: skip
    if recipe not in ("base", "gold"):
        row["coincidences"] = ["0.city"]
        row["unlearning"] = {
            "stop_rule_met": True, "forget_ratio": 0.1, "retain_drift": 0.01, "visual_seconds": 1.0,
            "steps": 400,
            "language_tensors_identical": True,
        }  # fmt: skip
    return row
