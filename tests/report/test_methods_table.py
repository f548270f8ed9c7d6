"""The table of the field in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import comparing, evaluation, gate, relearning, relearning_series, write
from tests.report.test_contents import NAME, PLACE, Outline, private_documents, render


def test_methods_stand_side_by_side_with_their_spread(tmp_path: Path):
    card = render(tmp_path, {"eval": evaluation(), "comparison": comparing()}, "card.md")
    section = card.split("## Beside other methods")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert rows[0][:5] == ["| method", "forget, %", "retain, %", "AG people visual, points", "AG people all, points"]
    assert rows[1][:4] == ["| base", "90.0", "80.0", "–"]
    assert rows[3][:4] == ["| vkd (this model)", "10.0 (5.0 to 15.0)", "80.0 (80.0 to 80.0)", "+20.0 (+20.0 to +20.0)"]
    # The attack diverged, and nothing else that is lower than zero loses its sign.
    assert rows[4][:5] == ["| ga", "50.0", "40.0", "−4.0", "n/a"]
    assert rows[5][:3] == ["| chance", "25.0", "–"]
    assert "Means over seeds 0, 1" in section
    assert "an attacker who trains tower and projector or every weight" in section
    assert "Comparison: ga, seed 0: the attack people.all diverged." in card


def test_the_table_can_be_read_without_seeing_it(tmp_path: Path):
    text = render(tmp_path, {"comparison": comparing()})
    table = text.split('<table class="field">')[1].split("</table>")[0]
    assert "<caption>Methods on the same case" in table
    heads = [attributes["scope"] for tag, attributes in Outline(table).tags if tag == "th"]
    # Method and seven columns; base, gold, two methods and chance.
    assert heads == ["col"] * 7 + ["row"] * 5
    assert '<li><a href="#field">Other methods</a></li>' in text
    assert 'role="group" tabindex="0" aria-label="Methods compared"' in text


def test_a_comparison_alone_is_about_no_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    gates = [gate("vkd.forget<=0.10", 0.1, 0.1, passed=True)]
    out = tmp_path / "card.md"
    paths = write(tmp_path, comparison=comparing(gates=gates))
    assert run(["report", *map(str, paths), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "passed"
    assert told["missing"] == ["Methods are compared; no document is about one model that is to go out."]
    card = out.read_text()
    assert "llava, methods compared" in card
    assert "(this model)" not in card


def test_other_weights_are_told_and_another_base_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = comparing()
    for each in other["cells"]:
        if each["name"] == "vkd":
            each["weights_digest"] = "1" * 64
    card = render(tmp_path, {"eval": evaluation(), "comparison": other}, "card.md")
    assert "None of the compared weights are those of the model that this report is about." in card
    other["cells"][0]["weights_digest"] = "2" * 64
    paths = write(tmp_path, eval=evaluation(), comparison=other)
    assert run(["report", *map(str, paths), "-o", str(tmp_path / "report.html")]) == 2
    assert "the base has other weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report.html", "card.md"])
def test_nobody_is_named_and_nothing_becomes_markup(tmp_path: Path, name: str):
    rows: list[dict[str, Any]] = comparing()["rows"]
    rows[2] |= {"name": f"<img src=x> {NAME}", "title": f"as told by {NAME} <b>"}
    hostile = comparing(rows=rows, warnings=[f"{NAME} <i>"], measured_on={"forget": f"<u> {NAME}"}, model_type="<s>")
    folder = tmp_path / "folder"
    folder.mkdir()
    text = render(folder, {**private_documents(), "comparison": hostile}, name)
    assert "sentinel" not in text.lower()
    assert PLACE not in text
    assert not [mark for mark in ("<img src=x>", "<b>", "<i>", "<u>", "<s>") if mark in text.replace("\\<", "")]


def test_an_attack_that_diverged_says_nothing(tmp_path: Path):
    metrics = [
        each | {"value": None} if each["id"].endswith("relearn.ag") else each for each in relearning()["metrics"]
    ]
    card = render(tmp_path, {"relearn": relearning(diverged=True, metrics=metrics)}, "card.md")
    assert "The attack diverged: its loss was no number any more" in card
    series = relearning_series()
    series["cases"][0]["diverged"] = True
    assert render(tmp_path, {"relearn": series}, "card.md").count("The attack diverged: ") == 1


def test_a_number_without_its_range_is_shown_alone(tmp_path: Path):
    document = comparing()
    for row in document["rows"]:
        row["low"].pop("forget", None)
        row["values"]["retain"] = None
    assert "n/a" in render(tmp_path, {"comparison": document}, "card.md")
