"""`vkdsurgeon eval --suite` and `--cache` from the outside, on the miniature."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.data.suites.layouts import cast
from vkdsurgeon.data.miniature.unpack import MiniaturePaths
from vkdsurgeon.results.evaluation import EvalResult


def words(miniature: MiniaturePaths, suite: str, root: Path, *more: str) -> list[str]:
    split = {"mllmu": "forget_5", "clear": "forget05"}[suite]
    return [
        *("eval", str(miniature.gold), "--reference", str(miniature.base), "--gold", str(miniature.gold)),
        *("--suite", suite, "--suite-root", str(root), "--split", split),
        *("--device", "cpu", "--max-new-tokens", "3", "--json", *more),
    ]


def small(miniature: MiniaturePaths, cache: Path, *more: str, forget: Path | None = None) -> list[str]:
    """One model, one short set, with a cache."""
    records = forget or miniature.records / "forget.jsonl"
    limit = ("--limit", "24", "--batch-size", "1")
    return ["eval", str(miniature.base), "--forget", str(records), *limit, "--json", "--cache", str(cache), *more]


def numbers(text: str) -> dict[str, object]:
    document = json.loads(text)
    return {key: value for key, value in document.items() if key != "seconds"}


def test_the_whole_benchmark(
    miniature: MiniaturePaths, mllmu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    gates = ("--gate", "forget.vqa.likelihood<=gold+0.03", "--gate", "forget.vqa.forget_quality>=0.05")
    cache = tmp_path / "cache"
    assert run(words(miniature, "mllmu", mllmu, *gates, "-o", str(out), "--cache", str(cache))) == 0
    printed = capsys.readouterr()
    result = EvalResult.model_validate_json(printed.out)
    assert printed.out == out.read_text()
    assert [(facts.name, facts.asked, facts.pictures, facts.subjects) for facts in result.sets] == [
        ("forget", 36, 4, 4),
        ("test", 36, 4, 4),
        ("retain", 27, 3, 3),
        ("real", 27, 3, 3),
    ]
    metrics = {metric.id: metric for metric in result.metrics}
    # The base saw everybody, gold did not see the four: on their images they differ, in text they do not.
    assert metrics["reference.forget.vqa.likelihood"].value == 1.0
    assert metrics["reference.test.vqa.likelihood"].value == 1.0
    assert metrics["forget.vqa.likelihood"].value < 0.5  # type: ignore[operator]
    assert metrics["forget.vqa.likelihood"].chance == 0.25
    assert metrics["reference.forget.vgen.rouge_l"].value == 1.0
    assert metrics["forget.vgen.rouge_l"].value < 0.5  # type: ignore[operator]
    assert metrics["forget.qa.likelihood"].value == metrics["retain.qa.likelihood"].value == 1.0
    assert metrics["retain.vqa.likelihood"].value == metrics["real.vqa.likelihood"].value == 1.0
    room = metrics["room.forget.vqa.likelihood"]
    assert room.value == pytest.approx(1.0 - metrics["forget.vqa.likelihood"].value)  # type: ignore[operator]
    assert (room.interval, room.unit, room.clusters) == ("paired bootstrap", "subject", 4)
    assert (metrics["forget.vqa.forget_quality"].value, metrics["forget.vqa.ks"].value) == (1.0, 0.0)
    directions = {name: metrics[name].direction for name in ("forget.vqa.likelihood", "test.vgen.rouge_l")}
    assert set(directions.values()) == {"lower"}
    assert metrics["forget.qa.likelihood"].direction == metrics["real.vqa.accuracy"].direction == "higher"
    assert result.settings.suite == "mllmu forget_5"
    assert any(text.startswith("forget.vqa rests on 12 records") for text in result.warnings)
    # The word-level vocabulary of the miniature knows no letters, so there is nothing to forget by them.
    assert any("forget.vqa.accuracy: reference" in text and "gold" in text for text in result.warnings)
    assert not [name for name in cast().names if name in printed.out]
    assert str(mllmu) not in printed.out
    # The model is gold itself here, and weights are what counts, not what they are called.
    assert "cache: model: 0 answers reused, 126 asked and kept" in printed.err
    assert "cache: reference: 0 answers reused, 126 asked and kept" in printed.err
    assert "cache: gold: 126 answers reused, 0 asked and kept" in printed.err
    nothing_said_is_in(cache)


def nothing_said_is_in(cache: Path) -> None:
    files = [path for path in cache.rglob("*") if path.is_file()]
    facts = [fact for person in cast().forget for fact in person.facts.values()]
    assert len(files) == 1 + 2 * 4
    for path in files:
        text = path.read_text() + str(path.relative_to(cache))
        assert not [word for word in (*cast().names, *facts, "Who", "vqa") if word in text]


def test_clear_with_demonstrations(miniature: MiniaturePaths, clear: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words(miniature, "clear", clear, "--few-shot", "--limit", "12")) == 0
    printed = capsys.readouterr()
    result = EvalResult.model_validate_json(printed.out)
    metrics = {metric.id: metric for metric in result.metrics}
    assert result.settings.few_shot == 1
    assert metrics["reference.forget.vqa.likelihood"].value > metrics["forget.vqa.likelihood"].value  # type: ignore[operator]
    assert metrics["forget.vgen.forget_quality"].value == 1.0
    assert metrics["real_world.vqa.likelihood"].chance == 0.5
    assert "4 question(s) of retain_perturbed" in printed.err
    assert not [name for name in cast().names if name in printed.out]


def test_a_gate_on_a_metric_that_the_suite_lacks(
    miniature: MiniaturePaths, clear: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(miniature, "clear", clear, "--gate", "forget.vqa.bleu<=0.1")) == 2
    assert "not measured: forget.vqa.bleu" in capsys.readouterr().err


def test_unlearning_a_split(llava: Path, clear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--suite", "clear", "--suite-root", str(clear), "--split", "forget05", "--dry-run", "--json"]
    assert run(["unlearn", str(llava), *more]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["forget_pictures"], plan["forget_subjects"]) == (8, 4)
    assert (plan["retain_pictures"], plan["retain_subjects"]) == (6, 3)


def test_answers_are_asked_once(miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert run(small(miniature, cache)) == 0
    first = capsys.readouterr()
    assert "cache: model: 0 answers reused, 24 asked and kept" in first.err
    assert run(small(miniature, cache)) == 0
    second = capsys.readouterr()
    assert "cache: model: 24 answers reused, 0 asked and kept" in second.err
    assert numbers(first.out) == numbers(second.out)
    without = [word for word in small(miniature, cache) if word not in ("--cache", str(cache))]
    assert run(without) == 0
    assert numbers(capsys.readouterr().out) == numbers(first.out)


def test_an_interrupted_evaluation_goes_on(
    miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vkdsurgeon.evaluation.cache import ModelCache

    cache = tmp_path / "cache"
    keep, kept = ModelCache.keep, []

    def stop(self: ModelCache, answers: list) -> list:
        if kept:
            raise KeyboardInterrupt
        kept.append(len(answers))
        return keep(self, answers)

    with monkeypatch.context() as patch:
        patch.setattr(ModelCache, "keep", stop)
        assert run(small(miniature, cache)) == 130
    assert not json.loads(capsys.readouterr().out)["error"].get("metrics")
    assert run(small(miniature, cache)) == 0
    resumed = capsys.readouterr()
    assert f"cache: model: {kept[0]} answers reused, {24 - kept[0]} asked and kept" in resumed.err
    assert run(small(miniature, tmp_path / "other")) == 0
    assert numbers(capsys.readouterr().out) == numbers(resumed.out)


def test_damaged_entries_are_asked_again(
    miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert run(small(miniature, cache)) == 0
    first = capsys.readouterr()
    entries = sorted(path for path in cache.rglob("*.json"))
    entries[0].write_text(entries[0].read_text()[:-30])
    changed = json.loads(entries[1].read_text())
    changed["content"]["answers"][0]["values"]["accuracy"] = 0.5
    entries[1].write_text(json.dumps(changed))
    assert run(small(miniature, cache)) == 0
    again = capsys.readouterr()
    assert again.err.count("is damaged; its") == 2
    assert "cache: model: 0 answers reused, 24 asked" in again.err
    assert numbers(again.out) == numbers(first.out)
    assert run(small(miniature, cache)) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["weights", "tokenizer", "image", "answer", "tokens"])
def test_whatever_decides_an_answer_decides_its_entry(
    what: str, miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, records = tmp_path / "base", tmp_path / "records"
    shutil.copytree(miniature.base, model)
    shutil.copytree(miniature.records, records)
    cache, more = tmp_path / "cache", ["--extra-set", f"say={records / 'say.jsonl'}"]
    rows = [json.loads(line) for line in (records / "forget.jsonl").read_text().splitlines()[:2]]
    for row in rows:
        del row["options"]

    def write() -> None:
        (records / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write()
    arguments = ["eval", str(model), *more, "--json", "--cache", str(cache), "--max-new-tokens"]
    assert run([*arguments, "2"]) == 0
    capsys.readouterr()
    tokens = "2"
    if what == "weights":
        shutil.rmtree(model)
        shutil.copytree(miniature.gold, model)
    elif what == "tokenizer":
        path = next(model.glob("*tokenizer_config.json"))
        path.write_text(path.read_text() + "\n")
    elif what == "image":
        shutil.copy(records / "images" / "mona-view00.png", records / rows[0]["image"])
    elif what == "answer":
        rows[0]["answer"] = "Mona"
        write()
    else:
        tokens = "3"
    assert run([*arguments, tokens]) == 0
    assert "cache: model: 0 answers reused, 2 asked and kept" in capsys.readouterr().err


def test_a_folder_of_something_else_is_no_cache(
    miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert run(small(miniature, tmp_path)) == 2
    assert "is not empty and not a cache" in capsys.readouterr().err
    assert run(small(miniature, tmp_path / "mine.txt")) == 2
    assert "this is not a directory" in capsys.readouterr().err
    assert run(small(miniature, tmp_path / "cache", "--include-examples")) == 2
    assert "not both" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
