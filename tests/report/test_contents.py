"""What a report says, and what it must never say or let through."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import (
    difference,
    evaluation,
    everything,
    gate,
    metric,
    operation,
    relearning,
    relearning_series,
    restoring,
    unlearning,
    write,
)
from vkdsurgeon.report.gate_words import in_words

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}](http://evil.example)|`\u202e"
NAME, ANSWER, QUESTION, PLACE = "Zaphod Sentinel", "Betelgeuse Sentinel", "Who is Sentinel?", "/home/sentinel-place"


def render(folder: Path, documents: dict[str, Any], name: str = "report.html", *words: str) -> str:
    out = folder / name
    paths = write(folder, **documents)
    assert run(["report", *map(str, paths), "-o", str(out), *words]) == 0
    return out.read_text()


class Outline(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_numbers_are_those_of_the_documents(tmp_path: Path):
    card = render(tmp_path, everything(), "card.md")
    row = "| vqa | 90.0 (80.0–100.0) | 5.0 (0.0–15.0) | 7.0 (0.0–17.0) | −85.0 (−90.0 to −80.0) | 100 | 25.0 | lower |"
    assert row in card
    assert "| text, rouge-l |" in card
    assert "| 71.0 |" in card, "no interval is shown where none was measured"
    assert "+35.0 points; gold under the same attack +3.0, so +32.0 beyond" in card
    assert "| vqa | 5.0 → 40.0 (30.0–50.0) | 7.0 → 10.0 (0.0–20.0) | 90.0 (80.0–100.0) | 100 |" in card
    assert "vqa: 5.0 % before, 88.0 % after; gold 7.0 %." in card
    assert "| **failed** | gap.relearn.ag\\<=5 | Relearning, other subjects | 32.0000 |" in card
    assert "| model.multi\\_modal\\_projector | 45 | 100 | 45.0 |" in card
    assert "let 75 of 300 visual weights move: single weights, chosen by the size of the forget loss’s gradient" in card
    assert "70 of 900 elements differ from the base, in 3 of 9 tensors" in card
    assert "Files: 1 identical, 1 changed, 1 added." in card


def test_what_was_not_measured_is_told_and_never_shown_as_zero(tmp_path: Path):
    metrics = [metric("forget.vqa.accuracy", None), metric("reference.forget.vqa.accuracy", 0.9)]
    missed = [gate("forget.vqa.accuracy<=0.10", None, 0.10, passed=False)]
    card = render(tmp_path, {"eval": evaluation(metrics=metrics, gates=missed)}, "card.md")
    assert "| vqa | 90.0 (80.0–100.0) | not measured |" in card
    assert "could not be measured" in card


def test_documents_that_contradict_each_other_are_told(tmp_path: Path):
    documents = {"diff": difference(language_identical=False), "run": unlearning()}
    documents["run"]["written"] |= {"elements_changed": 71}
    card = render(tmp_path, documents, "card.md")
    assert "differs from the base, and no decoder pass is on record" in card
    assert "The run says it changed 71 elements; 70 differ" in card
    assert "is identical, byte for byte" not in card


def test_limits_follow_what_was_done(tmp_path: Path):
    plain = render(tmp_path, {"run": unlearning()}, "plain.md")
    assert "Only the visual route is closed." in plain
    assert "No method that leaves the language model alone survives that. It was not measured here." in plain
    assert "It was measured" in render(tmp_path, everything(), "attacked.md")
    edited = render(tmp_path, {"run": unlearning(decoder={"selected_elements": 5})}, "edited.md")
    assert "Only the visual route is closed." not in edited


def test_every_attack_of_a_series_is_told_with_its_interval_and_its_utility(tmp_path: Path):
    card = render(tmp_path, {"series": relearning_series()}, "series.md")
    assert "### Relearning, other questions, LoRA on the language model" in card
    assert "### Relearning, trained on what is to be kept" in card
    assert "+40.0 points (95 % interval +35.0 to +46.0); gold under the same attack +3.0" in card
    assert "LoRA matrices on the language model of rank 8" in card
    assert "When 50 % of what the base knows above chance was back: at step 11; gold never within 15 steps." in card
    assert "Means over 2 seeds (0, 1)" in card
    assert card.count("Utility: what is to be kept") == 2
    assert "| **failed** | relearn.pairs.50.llm.ag\\<=5 | Relearning | 40.0000 |" in card
    assert "9" * 64 in card
    page = render(tmp_path, {"series": relearning_series()}, "series.html")
    assert page.count("<figcaption>vqa, percent correct</figcaption>") == 2


@pytest.mark.parametrize(
    ("settings", "title", "budget"),
    [
        ({"fraction": 0.25}, "Relearning, other subjects, 25 %", "about 2 others, on other images"),
        ({"fraction": 1.0}, "Relearning, other views, 100 %", "of the same kinds about the same, on other images"),
        ({"protocol": "views"}, "Relearning, other views", "of the same kinds about the same"),
        (
            {"protocol": "unrelated", "scope": "all"},
            "unrelated data, every weight",
            "nothing of the forget set",
        ),
        ({"scope": "llm_full", "lr": 1e-3}, "the language model, learning rate 0.001", "fine-tunes the language model"),
    ],
)
def test_an_attack_is_named_by_what_it_does(tmp_path: Path, settings: dict[str, Any], title: str, budget: str):
    card = render(tmp_path, {"a": relearning(settings=relearning()["settings"] | settings)}, "named.md")
    assert any(line.startswith("### ") and line.endswith(title) for line in card.splitlines())
    assert budget in card


def test_an_attack_without_utility_says_so(tmp_path: Path):
    kept = [each for each in relearning()["metrics"] if ".retain." not in each["id"]]
    assert "Utility beside it was not measured." in render(tmp_path, {"a": relearning(metrics=kept)}, "bare.md")
    assert "Utility beside it was not measured." not in render(tmp_path, {"a": relearning()}, "with.md")


def rising(attack: str, values: dict[str, tuple[float | None, float | None]]) -> list[dict[str, Any]]:
    return [
        metric(f"{attack}.{stage}.{name}.accuracy", value, direction="higher" if name.startswith("kept") else "lower")
        for name, ends in values.items()
        for stage, value in zip(("before", "after"), ends, strict=True)
    ]


def test_what_rose_most_of_what_was_to_be_forgotten_is_told_first(tmp_path: Path):
    values = {"vqa": (0.30, 0.55), "vqa.badge": (0.6, 0.6), "vqa.name": (0.0, 0.5), "cloze": (None, 0.9)}
    metrics = rising("restore", {**values, "kept": (0.0, 1.0)})
    metrics += [metric("restore.retain.before.vqa.accuracy", 0.0), metric("restore.retain.after.vqa.accuracy", 1.0)]
    card = render(tmp_path, {"a": restoring() | {"metrics": metrics}}, "rose.md")
    assert "vqa.name: 0.0 % before, 50.0 % after." in card
    assert card.count("% before") == 1, "one metric speaks for the attack"


def test_a_whole_task_speaks_for_a_part_that_rose_as_much(tmp_path: Path):
    metrics = rising("restore", {"vqa.name": (0.0, 0.5), "vqa": (0.0, 0.5)})
    assert "\nvqa: 0.0 % before, 50.0 %" in render(tmp_path, {"a": restoring() | {"metrics": metrics}}, "whole.md")


def test_relearning_tells_what_rose_most_beside_its_mean(tmp_path: Path):
    metrics = [each for each in relearning()["metrics"] if each["id"].endswith(".ag")]
    metrics += rising("relearn", {"cloze": (0.1, 0.2), "vqa": (0.05, 0.8)})
    card = render(tmp_path, {"a": relearning(metrics=metrics)}, "beside.md")
    assert "vqa: 5.0 % before, 80.0 % after. AG, the mean gain of what was measured:" in card


@pytest.mark.parametrize(
    ("after", "gold", "tone"), [(0.8, None, "bad"), (0.8, 0.79, "good"), (0.8, 0.2, "bad"), (0.06, None, "good")]
)
def test_what_came_back_is_coloured_by_how_much_it_is(tmp_path: Path, after: float, gold: float | None, tone: str):
    metrics = rising("restore", {"vqa": (0.05, after)})
    metrics += [] if gold is None else [metric("gold.restore.after.vqa.accuracy", gold)]
    page = render(tmp_path, {"a": restoring() | {"metrics": metrics}}, f"{tone}.html")
    assert f'<p class="outcome {tone}"><strong>vqa: 5.0 % before, {100 * after:.1f} % after' in page
    assert f'<div class="{tone}"><dt>Original visual weights put back: vqa</dt>' in page


@pytest.mark.parametrize(("gold", "tone"), [(3.0, "bad"), (34.0, "good")])
def test_the_gain_of_relearning_is_coloured_alike(tmp_path: Path, gold: float, tone: str):
    metrics = [metric("relearn.ag", 35.0), metric("gold.relearn.ag", gold)]
    page = render(tmp_path, {"a": relearning(metrics=metrics)}, f"{tone}.html")
    assert f'<div class="{tone}"><dt>Relearning, other subjects, AG</dt>' in page


def test_the_report_ends_with_who_signs_for_what(tmp_path: Path):
    plain = render(tmp_path, {"a": restoring()}, "plain.html")
    assert "<h1>llava: visual unlearning report</h1>" in plain
    assert plain.count('<dd class="blank">') == 4
    given = ("--product", "Assistant 2.1", "--date", "2026-03-01", "--request-id", "R-17", "--approver", "A. Person")
    for name in ("signed.html", "signed.md"):
        signed = render(tmp_path, {"a": restoring()}, name, *given)
        assert "Assistant 2.1: visual unlearning report" in signed
        assert all(text in signed for text in given[1::2])
        assert "Base, SHA-256 of its weights" in signed


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("forget.vqa.accuracy<=0.10", "Forget vqa accuracy: at most 10 %"),
        ("retain.vqa.accuracy>=reference-0.03", "Retain vqa accuracy: at least the base’s minus 3 points"),
        ("relearn.ag<=gold+10", "Relearn AG: at most gold’s plus 10 points"),
        ("gap.relearn.ag<=5", "Relearn AG, minus gold’s: at most 5 points"),
        ("relearn.steps_to_recover>=9", "Relearn steps to recover: at least 9 steps"),
        ("text.text.agreement==1", "Text text agreement: exactly 100 %"),
        ("no gate", ""),
    ],
)
def test_gates_are_told_in_words(gate: str, words: str):
    assert in_words(gate) == words


def test_on_paper_everything_is_open():
    style = (resources.files("vkdsurgeon.report") / "templates" / "style.css").read_text()
    paper = style.split("@media print")[1]
    assert "details::details-content { content-visibility: visible" in paper
    assert "overflow-wrap: normal" in paper


def hostile_documents() -> dict[str, Any]:
    layers = [{"layer": HOSTILE, "elements": 10, "selected": 5}]
    return {
        "eval": evaluation(
            forget_task=HOSTILE,
            gates=[gate(HOSTILE, 0.5, 0.1, passed=False)],
            warnings=[HOSTILE],
            versions={HOSTILE: HOSTILE},
            subjects=[{"set": "forget", "subject": "subject-1", "n": 1, "values": {HOSTILE: 0.1}}],
        ),
        "relearn": relearning(
            metrics=[metric(f"relearn.{stage}.{HOSTILE}.accuracy", 0.5) for stage in ("before", "after")],
            curve=[
                {"model": "model", "step": step, "loss": None, "values": {HOSTILE: 0.5}} for step in (0, 5)
            ],
            warnings=[HOSTILE],
        ),
        "run": unlearning(layers=layers, recipe={HOSTILE: HOSTILE}, sets={HOSTILE: operation()["sets"]["forget"]}),
    }  # fmt: skip


def test_no_text_of_a_document_becomes_markup(tmp_path: Path):
    page = Outline(render(tmp_path, hostile_documents(), "report.html", "--title", HOSTILE))
    assert not [tag for tag, _ in page.tags if tag in ("img", "script", "iframe", "object", "a href")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert not [attributes for tag, attributes in page.tags if tag == "a" and not attributes["href"].startswith("#")]
    assert "<img src=x onerror=alert(1)>" in "".join(page.words), "it is shown as the text it is"
    assert "49" not in next(word for word in page.words if "onerror" in word), "templates never run what they print"
    assert "\u202e" not in "".join(page.words), "nothing turns the direction of reading"


def test_no_text_of_a_document_becomes_markup_in_markdown(tmp_path: Path):
    card = render(tmp_path, hostile_documents(), "card.md", "--title", HOSTILE)
    rest = card.removeprefix("<!-- vkdsurgeon report -->")
    assert not re.search(r"(?<!\\)<", rest)
    assert not re.search(r"(?<!\\)\]\(", rest)
    assert not re.search(r"(?<!\\)`", rest)
    assert "http\\://evil" in rest
    tables = re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_the_page_loads_and_runs_nothing(tmp_path: Path):
    text = render(tmp_path, everything())
    page = Outline(text)
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    loaded = [attributes.get("src") or attributes.get("href") for _, attributes in page.tags]
    assert {place for place in loaded if place and not place.startswith("#")} == {"data:,"}
    assert not re.search(r"(https?:)?//", text.replace("http-equiv", ""))


def private_documents(task: str = "vqa") -> dict[str, Any]:
    example = {
        "set": "forget",
        "subject": NAME,
        "task": "vqa",
        "question": QUESTION,
        "answer": ANSWER,
        "values": {"accuracy": 0.0},
    }
    run_document = unlearning(out=PLACE)
    run_document["plan"] |= {"warnings": [f"{PLACE} is odd"]}
    run_document["written"] |= {"by_tensor": {NAME: 3}}
    relearn = relearning()
    relearn["sets"][0] = relearn["sets"][0] | {"digest": "0" * 64}
    return {
        "eval": evaluation(
            forget_task=task,
            examples=[{**example, "model": role, "said": f"{role} said {ANSWER}"} for role in ("model", "reference")],
            subjects=[{"set": "forget", "subject": NAME, "n": 5, "values": {f"forget.{task}.accuracy": 0.2}}],
            gates=[gate(f"forget.{task}.accuracy<=0.1", 0.05, 0.1, passed=True)],
            warnings=[f"forget.{task}.accuracy is for {NAME}"],
        ),
        "relearn": relearn,
        "run": run_document,
        "diff": difference(base=PLACE, patched=PLACE, files={f"{PLACE}/{NAME}.txt": "extra"}),
    }


@pytest.mark.parametrize("name", ["report.html", "card.md"])
@pytest.mark.parametrize("task", ["vqa", "vqa.zaphod_sentinel", "vqa.Zaphod Sentinel"])
def test_nobody_is_named_unless_asked_for(tmp_path: Path, name: str, task: str):
    folder = tmp_path / "sentinel-folder"
    folder.mkdir()
    text = render(folder, private_documents(task), name, "--title", f"Without {NAME}")
    assert "sentinel" not in text.lower()
    assert "betelgeuse" not in text.lower()
    asked = render(folder, private_documents(task), name, "--include-examples")
    for expected in (NAME, ANSWER, f"model said {ANSWER}"):
        assert expected in asked
    assert PLACE not in asked, "paths are of no use to a reader, and may name somebody"


def test_subjects_that_are_numbers_are_not_told_either(tmp_path: Path):
    subjects = [{"set": "forget", "subject": "4711", "n": 5, "values": {"forget.vqa.accuracy": 0.2}}]
    text = render(tmp_path, {"eval": evaluation(subjects=subjects)})
    assert "4711" not in text
    assert "subject 1" in text


def test_asking_for_examples_that_are_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    render(tmp_path, everything(), "report.html", "--include-examples")
    assert "no document holds examples" in capsys.readouterr().err


def test_headings_tables_and_figures_say_what_they_are(tmp_path: Path):
    text = render(tmp_path, everything())
    page = Outline(text)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert text.count("<table") == text.count("<caption") > 5
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes["aria-labelledby"] in ids
        if tag == "a":
            assert attributes["href"][1:] in ids


def test_a_set_of_many_layers_and_odd_names_is_drawn_within_the_figure(tmp_path: Path):
    layers = [{"layer": f"layer.{index}", "elements": 10, "selected": index % 11} for index in range(60)]
    page = Outline(render(tmp_path, {"run": unlearning(layers=layers)}))
    bars = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert len(bars) == 60
    assert all(float(bar["x"]) >= 0 and float(bar["x"]) + float(bar["width"]) <= 340 for bar in bars)
    assert all(float(bar["y"]) >= 0 and float(bar["height"]) >= 0 for bar in bars)
