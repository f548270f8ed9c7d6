"""`compare` on a tiny model: cells are filled once, told apart by their inputs, and held against gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.comparison.aggregate import row
from vkdsurgeon.comparison.datasets import check_place, mark_place
from vkdsurgeon.comparison.methods import parse_names, parse_seeds
from vkdsurgeon.comparison.relearning import parse_scopes
from vkdsurgeon.comparison.settings import recipe_of
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.config.preset import preset_names, preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import alone_in
from vkdsurgeon.results.comparison import Cell
from vkdsurgeon.results.comparison_columns import headline, score
from vkdsurgeon.results.comparison_table import shown
from vkdsurgeon.results.evaluation import Metric

QUICK = ["--set", "baseline.steps=3", "--set", "baseline.scored=6", "--set", "baseline.forget_batch=4", "--limit", "24",
         "--attack-steps", "2", "--device", "cpu"]  # fmt: skip


def compare(facts: World, out: Path, *words: object, gold: bool = True) -> int:
    return run(
        ["compare", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain),
         *(["--gold", str(facts.gold)] if gold else []), "--heldout", str(facts.heldout), "--text", str(facts.text),
         "-o", str(out), *QUICK, *map(str, words)]
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(facts: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "table"
    assert compare(facts, out, "--methods", "ga") == 0
    return out


def test_base_gold_and_every_method_have_a_row(table: Path) -> None:
    result = json.loads((table / "comparison.json").read_text())
    rows = {row["name"]: row["values"] for row in result["rows"]}
    assert list(rows) == ["base", "gold", "ga"]
    columns = "forget forget.name retain text people.relearn.ag pairs.all.relearn.ag score seconds cpu_seconds"
    assert {*columns.split(), "peak_memory_mib", "tera_flops"} <= rows["ga"].keys()
    assert rows["base"]["forget"] > 0.9 > 0.6 > rows["gold"]["forget"]
    assert rows["ga"]["seconds"] > 0
    assert rows["ga"]["peak_memory_mib"] > 0
    assert rows["ga"]["tera_flops"] > 0
    assert "people.relearn.ag" not in rows["base"]
    gold, base, mine = rows["gold"], rows["base"], rows["ga"]
    kept = [
        1 - max(0, *(mine[f"{p}.{s}.relearn.ag"] - gold[f"{p}.{s}.relearn.ag"] for s in ("visual", "all"))) / 100
        for p in ("people", "pairs")
    ]
    assert mine["pairs.relearn.ag"] == max(mine["pairs.visual.relearn.ag"], mine["pairs.all.relearn.ag"])
    expected = (1 - abs(mine["forget"] - gold["forget"])) * min(1, mine["retain"] / base["retain"]) * sum(kept) / 2
    assert mine["score"] == pytest.approx(expected)
    text = (table / "comparison.md").read_text()
    assert text.startswith("| method | forget |")
    assert " AG people visual | AG people all | AG pairs visual | AG pairs all | score |" in text
    assert "| ga | " in text
    # Eight names and four homes to choose from, and what has no options does not count.
    assert result["chance"]["forget"] == pytest.approx((1 / 8 + 1 / 4) / 2)
    assert "| chance | 18.8 | 12.5 | 50.0 |" in text
    assert not list((table / "models").glob("ga-*/")), "models are not kept unasked"
    assert "Ann" not in (table / "comparison.json").read_text()


def test_known_cells_are_not_run_again(facts: World, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (table / "cells").iterdir()}
    first = json.loads((table / "comparison.json").read_text())
    words = ("--methods", "ga", "--json", "--progress", "jsonl")
    assert compare(facts, table, *words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"] == first["rows"]
    events = [json.loads(line) for line in captured.err.splitlines() if line.startswith("{")]
    assert [event["cached"] for event in events if event["event"] == "cell"] == [True, True, True]
    assert {path.name: path.stat().st_mtime_ns for path in (table / "cells").iterdir()} == before


@pytest.mark.campaign
def test_a_broken_cell_is_made_again_and_another_limit_makes_cells_of_its_own(facts: World, table: Path) -> None:
    broken = next(path for path in (table / "cells").iterdir() if path.name.startswith("gold"))
    broken.write_text("{}")
    assert compare(facts, table, "--methods", "ga", "--limit", 8, gold=False) == 0
    names = [path.name.split("-")[0] for path in (table / "cells").iterdir()]
    assert names.count("ga") == names.count("base") == 2
    assert compare(facts, table, "--methods", "ga") == 0
    assert json.loads(broken.read_text())["name"] == "gold", "a broken cell is made again"


def test_gates_name_a_row_and_a_column(facts: World, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(facts, table, "--methods", "ga", "--gate", "ga.retain>=2e-1", "--gate", "gold.forget<=0.0") == 3
    assert "gold.forget" in capsys.readouterr().err
    assert json.loads((table / "comparison.json").read_text())["gates"][0]["passed"]
    assert compare(facts, table, "--methods", "ga", "--gate", "npo.retain>=0.5") == 2
    assert "ga.retain" in capsys.readouterr().err


def test_wrong_words_are_status_2(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--methods", "ga,gaa"), ("--methods", "ga,ga"), ("--methods", ","), ("--methods", "ga", "--seeds",
                  "0,x"), ("--methods", "ga", "--seeds", "1,1"), ("--methods", "ga", "--attack-scope", "eyes"),
                  ("--methods", "vkd", "--preset", "robuster")):  # fmt: skip
        assert compare(facts, tmp_path / "o", *words) == 2
    assert not (tmp_path / "o").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    assert compare(facts, tmp_path / "mine", "--methods", "ga") == 2
    assert "earlier comparison" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


@pytest.mark.campaign
def test_a_method_that_refuses_its_recipe_is_told_by_name(
    facts: World, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(facts, table, "--methods", "rmu", "--set", "baseline.rmu_layer=99") == 2
    told = capsys.readouterr().err
    assert "rmu: the decoder has fewer layers" in told
    assert not [path for path in (table / "cells").iterdir() if path.name.startswith("rmu")]


def test_names_and_seeds() -> None:
    presets = [f"vkd-{name}" for name in preset_names() if name != "default"]
    assert [each.name for each in parse_names("all")][: len(presets) + 3] == ["vkd", *presets, "vkd-npo", "ga"]
    assert "vkd-robust" not in [each.name for each in parse_names("all", "robust")]
    assert parse_names("vkd-npo")[0].overrides == {"output_loss": "npo"}
    assert parse_scopes("visual, llm_full") == ["visual", "llm_full"]
    assert parse_seeds(" 3, 1") == [3, 1]
    with pytest.raises(UserError, match="no such method"):
        parse_names("base")


def test_a_preset_lies_under_the_recipe_and_reaches_only_whom_it_is_of() -> None:
    robust = preset_settings("robust")
    mine = Recipe.model_validate({"density": 0.7, "decoder": {"steps": 9}, "baseline": {"steps": 4}})
    by_name, by_option = parse_names("vkd-robust")[0], parse_names("vkd", "robust")[0]
    assert recipe_of(by_name, mine) == recipe_of(by_option, mine) == {**robust, "density": 0.7}
    assert recipe_of(parse_names("vkd")[0], mine) == {"density": 0.7}
    assert recipe_of(parse_names("vkd-decoder")[0], mine) == {"density": 0.7, "decoder": {"steps": 9}}
    assert recipe_of(parse_names("vkd-npo", None)[0], mine)["baseline"] == {"steps": 4}
    assert recipe_of(parse_names("ga")[0], mine) == {"baseline": {"steps": 4}}
    assert [each.reads_text for each in parse_names("vkd,vkd-decoder,manu,ga")] == [False, True, True, False]
    assert parse_names("vkd", "decoder")[0].reads_text
    with pytest.raises(UserError, match="no such preset"):
        parse_names("vkd", "robuster")
    with pytest.raises(UserError, match="no method uses the preset"):
        parse_names("ga", "robust")


def test_no_text_question_is_both_given_and_measured(facts: World, tmp_path: Path) -> None:
    records = read_records(facts.text, role="text")
    given, measured = divide_text([*records, *records[:3]])
    asked = [{record.question for record in half} for half in (given, measured)]
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == {record.question for record in records}
    # 3 questions about the forgotten and 5 about the kept.
    assert [len(half) for half in asked] == [1 + 2, 2 + 3]
    assert {record.task for record in given} == {record.task for record in measured}
    again = read_records(write_text(given, tmp_path / "given.jsonl"), role="text")
    assert [record.model_dump(exclude={"source"}) for record in again] == [
        record.model_dump(exclude={"source"}) for record in given
    ]


def test_the_score_needs_gold_and_every_protocol() -> None:
    base, gold = {"retain": 0.5}, {"forget": 0.1, "people.visual.relearn.ag": 10.0, "people.all.relearn.ag": 0.0}
    mine = {"forget": 0.3, "retain": 0.4, "people.visual.relearn.ag": 30.0, "people.all.relearn.ag": 25.0}
    assert score(mine, base, gold, ["people"], ["visual"]) == pytest.approx(0.8 * 0.8 * 0.8)
    # Of the two, the attacker takes the one that brings more back beyond what it brings gold.
    assert score(mine, base, gold, ["people"], ["visual", "all"]) == pytest.approx(0.8 * 0.8 * 0.75)
    diverged = {**mine, "people.all.relearn.ag": None}
    assert score(diverged, base, gold, ["people"], ["visual", "all"]) == pytest.approx(0.8 * 0.8 * 0.8)
    assert score(diverged, base, gold, ["people"], ["all"]) is None
    harmless = {**mine, "people.visual.relearn.ag": -5.0, "retain": 0.9}
    assert score(harmless, base, gold, ["people"], ["visual"]) == pytest.approx(0.8)
    assert score(mine, base, None, ["people"], ["visual"]) is None
    assert score(mine, base, gold, ["people", "pairs"], ["visual"]) is None


@pytest.mark.campaign
def test_the_decoder_pass_is_attacked_where_it_edited_and_never_asked_what_it_was_given(
    facts: World, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = {"steps": 4, "copies": 0, "tamper_weight": 0.0, "decoder": {"steps": 3, "seek_steps": 1}}
    recipe.write_text(json.dumps(settings))
    out = tmp_path / "out"
    words = ("--methods", "vkd-decoder", "--recipe", recipe, "--attack-scope", "all")
    assert compare(facts, out, *words, "--keep-models", gold=False) == 0
    result = json.loads((out / "comparison.json").read_text())
    found = next(cell for cell in result["cells"] if cell["name"] == "vkd-decoder")
    assert found["values"]["pairs.all.relearn.ag"] is not None
    assert "pairs.visual.relearn.ag" not in found["values"]
    assert found["recipe"] == settings
    text = next(facts for facts in result["sets"] if facts["name"] == "text")
    assert text["records"] == 5, "the half that no method is given"
    model = next((out / "models").glob("*/config.json")).parent
    given = json.loads((model / "vkdsurgeon.json").read_text())["decoder"]["text"]
    assert [given[key] for key in ("built_in", "prompts", "held_out")] == [False, 2, 1], "the other half, halved"
    assert not diff_checkpoints(facts.base, model).language_identical

    # As a run that was interrupted leaves it: the journal of training, and nothing finished.
    cell, note, journal = (
        next((out / folder).glob("vkd-decoder-0-*" + end))
        for folder, end in (("cells", ".json"), ("models", ".json"), ("models", ".journal"))
    )
    cell.unlink()
    note.unlink()
    assert compare(facts, out, *words, gold=False) == 0
    assert json.loads(cell.read_text())["weights_digest"] == found["weights_digest"]
    assert not journal.exists()
    assert not list((out / "models").glob("vkd-decoder-0-*")), "models are not kept unasked, nor their journals"


def test_a_directory_of_somebody_elses_is_refused(facts: World, tmp_path: Path) -> None:
    """A folder called `cells` makes nothing a comparison."""
    out = tmp_path / "biology"
    (out / "cells").mkdir(parents=True)
    (out / "cells" / "hela.json").write_text('{"key": "x"}')
    (out / "comparison.json").write_text('{"mine": 1}')
    before = {path: path.read_text() for path in out.rglob("*.json")}
    assert compare(facts, out, "--methods", "ga") == 2
    assert {path: path.read_text() for path in out.rglob("*.json")} == before
    (tmp_path / "empty").mkdir()
    mark_place(tmp_path / "empty")
    check_place(tmp_path / "empty")


def test_a_row_is_the_mean_over_its_seeds_with_the_ends_and_each_seed_is_held_against_gold_with_the_same() -> None:
    def cell(name: str, seed: int, forget: float, gain: float | None) -> Cell:
        values = {"forget": forget, "retain": 0.5, "people.all.relearn.ag": gain}
        return Cell(
            key="", name=name, seed=seed, recipe={}, values=values, chance={}, diverged=[], steps=1,
            elements_changed=1, weights_digest="", met=None,
        )  # fmt: skip

    cells = [cell("base", 0, 1.0, None), cell("gold", 0, 0.0, 10.0), cell("gold", 1, 0.0, 30.0)]
    cells += [cell("ga", 0, 0.2, 30.0), cell("ga", 1, 0.4, 30.0)]
    golds = {each.seed: each.values for each in cells if each.name == "gold"}
    mine = [each for each in cells if each.name == "ga"]
    scores = [score(each.values, cells[0].values, golds[each.seed], ["people"], ["all"]) for each in mine]
    assert scores == [pytest.approx(0.8 * 0.8), pytest.approx(0.6)]
    made = row("ga", mine, {"ga": "gradient ascent"})
    assert made.seeds == [0, 1]
    assert made.values["forget"] == pytest.approx(0.3)
    assert (made.low["forget"], made.high["forget"]) == (0.2, 0.4)
    assert shown(made, "forget") == "30.0 (20.0 to 40.0)"
    assert shown(row("ga", [cell("ga", 0, 0.2, None)], {"ga": ""}), "people.all.relearn.ag") == "n/a"


def test_two_comparisons_do_not_fill_one_directory(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table"
    out.mkdir()
    with alone_in(out, "compare"):
        assert compare(facts, out, "--methods", "ga") == 2
    assert "another `compare` is at work here" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_column_that_was_measured_in_part_has_no_number() -> None:
    """A mean over what is left would hide that the model is broken."""

    def metric(name: str, value: float | None) -> Metric:
        return Metric(id=name, value=value, n=4, direction="lower")

    whole = [metric("forget.vqa.accuracy", 0.5), metric("forget.qa.accuracy", 0.1)]
    assert headline(whole)["forget"] == pytest.approx(0.3)
    assert headline([whole[0], metric("forget.qa.accuracy", None)])["forget"] is None


@pytest.mark.campaign
def test_shards_fill_one_directory_that_the_whole_finds(
    facts: World, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for number in range(2):
        assert compare(facts, out, "--methods", "ga", "--shard", f"{number}/2", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["shard"] == f"{number}/2"
        assert [row["name"] for row in found["rows"]] == (["gold", "ga"], ["base"])[number]
        assert not (out / "comparison.json").exists()
    assert compare(facts, out, "--methods", "ga", "--json", "--progress", "jsonl") == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.err.splitlines() if line.startswith("{")]
    assert [event["cached"] for event in events if event["event"] == "cell"] == [True, True, True]
    costs = {"seconds", "cpu_seconds", "peak_memory_mib"}

    def measured(document: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {**cell, "values": {name: value for name, value in cell["values"].items() if name not in costs}}
            for cell in document["cells"]
        ]

    whole = json.loads((table / "comparison.json").read_text())
    together = json.loads((out / "comparison.json").read_text())
    assert measured(together) == measured(whole)
    assert [row["name"] for row in together["rows"]] == ["base", "gold", "ga"]
    assert together["shard"] is None


def test_shards_are_checked_before_anything_runs(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        (("--shard", "2/2"), "no such shard"),
        (("--shard", "1"), "not a shard"),
        (("--shard", "4/5"), "nothing to run"),
        (("--shard", "0/2", "--gate", "ga.forget<=1"), "gates are about"),
    ):
        assert compare(facts, tmp_path / "out", "--methods", "ga", *words) == 2
        assert told in capsys.readouterr().err
    assert not list((tmp_path).rglob("*.json"))


def test_shards_are_let_into_one_directory_and_a_whole_comparison_is_not(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark_place(tmp_path)
    with alone_in(tmp_path, "compare", shared=True), alone_in(tmp_path, "compare", shared=True):
        assert compare(facts, tmp_path, "--methods", "ga") == 2
        assert "another `compare` is at work" in capsys.readouterr().err
    with alone_in(tmp_path, "compare"), pytest.raises(UserError), alone_in(tmp_path, "compare", shared=True):
        pass
