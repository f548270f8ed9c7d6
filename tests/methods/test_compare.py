"""`compare` on a tiny model: cells are filled once, told apart by their inputs, and held against gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World
from vkdsurgeon.comparison.contestants import parse_names, parse_seeds
from vkdsurgeon.comparison.headline import score
from vkdsurgeon.errors import UserError

QUICK = ["--baseline", "steps=3", "--baseline", "scored=6", "--baseline", "forget_batch=4", "--limit", "24",
         "--attack-steps", "2", "--device", "cpu"]  # fmt: skip


def compare(facts: World, out: Path, *words: object) -> int:
    return run(
        ["compare", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain), "--gold",
         str(facts.gold), "--heldout", str(facts.heldout), "--text", str(facts.text), "-o", str(out), *QUICK,
         *map(str, words)]
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
    columns = "forget forget.name retain text people.relearn.ag pairs.relearn.ag score seconds cpu_seconds"
    assert {*columns.split(), "peak_memory_mib", "tera_flops"} <= rows["ga"].keys()
    assert rows["base"]["forget"] > 0.9 > 0.6 > rows["gold"]["forget"]
    assert rows["ga"]["seconds"] > 0
    assert rows["ga"]["peak_memory_mib"] > 0
    assert rows["ga"]["tera_flops"] > 0
    assert "people.relearn.ag" not in rows["base"]
    gold, base, mine = rows["gold"], rows["base"], rows["ga"]
    kept = [1 - max(0, mine[f"{p}.relearn.ag"] - gold[f"{p}.relearn.ag"]) / 100 for p in ("people", "pairs")]
    expected = (1 - abs(mine["forget"] - gold["forget"])) * min(1, mine["retain"] / base["retain"]) * sum(kept) / 2
    assert mine["score"] == pytest.approx(expected)
    text = (table / "comparison.md").read_text()
    assert text.startswith("| method | forget |")
    assert "| ga | " in text
    assert not list((table / "models").glob("ga-*/")), "models are not kept unasked"
    assert "Ann" not in (table / "comparison.json").read_text()


def test_known_cells_are_not_run_again_and_a_changed_input_is_never_served(
    facts: World, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (table / "cells").iterdir()}
    first = json.loads((table / "comparison.json").read_text())
    words = ("--methods", "ga", "--json", "--progress", "jsonl")
    assert compare(facts, table, *words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"] == first["rows"]
    events = [json.loads(line) for line in captured.err.splitlines() if line.startswith("{")]
    assert [event["cached"] for event in events if event["event"] == "cell"] == [True, True, True]
    assert {path.name: path.stat().st_mtime_ns for path in (table / "cells").iterdir()} == before
    broken = next(path for path in (table / "cells").iterdir() if path.name.startswith("gold"))
    broken.write_text("{}")
    assert compare(facts, table, "--methods", "ga", "--limit", 8) == 0
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
                  "0,x"), ("--methods", "ga", "--seeds", "1,1")):  # fmt: skip
        assert compare(facts, tmp_path / "o", *words) == 2
    assert not (tmp_path / "o").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    assert compare(facts, tmp_path / "mine", "--methods", "ga") == 2
    assert "earlier comparison" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


def test_a_method_that_refuses_its_recipe_is_told_by_name(
    facts: World, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(facts, table, "--methods", "rmu", "--baseline", "rmu_layer=99") == 2
    told = capsys.readouterr().err
    assert "rmu: the decoder is not that deep" in told
    assert not [path for path in (table / "cells").iterdir() if path.name.startswith("rmu")]


def test_names_and_seeds() -> None:
    assert [each.name for each in parse_names("all")][:3] == ["vkd", "vkd-npo", "ga"]
    assert parse_names("vkd-npo")[0].overrides == {"output_loss": "npo"}
    assert parse_seeds(" 3, 1") == [3, 1]
    with pytest.raises(UserError, match="no such method"):
        parse_names("base")


def test_the_score_needs_gold_and_every_protocol() -> None:
    base, gold = {"retain": 0.5}, {"forget": 0.1, "people.relearn.ag": 10.0}
    mine = {"forget": 0.3, "retain": 0.4, "people.relearn.ag": 30.0}
    assert score(mine, base, gold, ["people"]) == pytest.approx(0.8 * 0.8 * 0.8)
    assert score({**mine, "people.relearn.ag": -5.0, "retain": 0.9}, base, gold, ["people"]) == pytest.approx(0.8)
    assert score(mine, base, None, ["people"]) is None
    assert score(mine, base, gold, ["people", "pairs"]) is None
