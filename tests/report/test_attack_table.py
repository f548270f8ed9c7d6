"""Attacks that try many things, in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import attack, gate, metric, quantizing, relearning, write


def probing() -> dict[str, Any]:
    """A probing attack."""
    kinds = [("", "crowd.accuracy"), ("", "reader.accuracy"), ("gold.", "crowd.accuracy"), ("", "detect.auc")]
    metrics = [
        metric(f"{role}probe.{row}.{kind}", value, chance=0.5)
        for row, value in (("layer-0", 0.6), ("projector", 0.3))
        for role, kind in kinds
    ]
    return attack("probe", metrics, {"probe": "logistic", "pooling": "mean"})


def report(folder: Path, name: str, **documents: Any) -> str:
    assert run(["report", *map(str, write(folder, **documents)), "-o", str(folder / name)]) == 0
    return (folder / name).read_text()


def test_the_worst_case_is_told_first_and_every_row_after_it(tmp_path: Path):
    card = report(tmp_path, "card.md", quantize=quantizing())
    assert "vqa, rose most at int4: 40.0 %; 5.0 % as given; gold 10.0 %; base 85.0 %." in card
    assert "| tried | forgotten: vqa, chance 25.0 | kept: vqa |" in card
    assert "| as given | 5.0 (0.0–15.0); gold 7.0, base 90.0 | 80.0 (70.0–90.0) |" in card
    assert "| int4 | 40.0 (30.0–50.0); gold 10.0, base 85.0 | 80.0 (70.0–90.0) |" in card
    assert "gain" not in card
    assert "vqa name" not in card, "parts of tasks are in the document"
    assert "That was not measured here." not in card, "the limit on quantisation is for those who did not try"


def test_what_rose_most_is_told_whatever_was_measured_first(tmp_path: Path):
    values = {"before": (0.5, 0.0), "int8": (0.6, 0.1), "int4": (0.55, 0.4)}
    metrics = [
        metric(f"quantize.{row}.{name}.accuracy", value)
        for row, numbers in values.items()
        for name, value in zip(("vqa", "cloze"), numbers, strict=True)
    ]
    card = report(tmp_path, "card.md", quantize=quantizing(metrics=metrics))
    assert "cloze, rose most at int4: 40.0 %; 0.0 % as given." in card


def test_a_reader_of_old_features_speaks_for_the_probe(tmp_path: Path):
    card = report(tmp_path, "card.md", probe=probing())
    assert "reader, at projector: 30.0 %." in card
    assert "| layer-0 | 60.0 (50.0–70.0); gold 60.0 | 60.0 (50.0–70.0) | 60.0 (50.0–70.0) |" in card
    assert "probe: logistic; pooling: mean." in card


def test_before_and_after_attacks_stay_as_they_are(tmp_path: Path):
    card = report(tmp_path, "card.md", relearn=relearning())
    assert "unlearned, before → after" in card
    assert "| tried |" not in card


@pytest.mark.parametrize("name", ["report.html", "card.md"])
def test_what_a_user_calls_a_row_is_text(tmp_path: Path, name: str):
    rows = [metric(f"prompt.{row}.vqa.accuracy", 0.5) for row in ("before", "<img src=x>|")]
    text = report(tmp_path, name, prompt=attack("prompt", rows, {"device": "cpu"}))
    assert "<img src=x>" not in text


def test_gates_of_such_attacks_reach_the_verdict(tmp_path: Path):
    missed = [gate("quantize.int4.vqa.accuracy<=0.1", 0.4, 0.1, passed=False)]
    page = report(tmp_path, "report.html", quantize=quantizing(gates=missed))
    assert "Not passed." in page
    assert "Quantisation" in page
    assert page.count('class="scroll"') == 1
