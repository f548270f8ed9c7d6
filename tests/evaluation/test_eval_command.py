"""`vkdsurgeon eval` from the outside: exit statuses, documents, and what they never hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.tiny_llava import NAMES, World, world
from vkdsurgeon.results.evaluation import EvalResult


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def command(facts: World, *more: str) -> list[str]:
    return ["eval", str(facts.base), "--device", "cpu", "--max-new-tokens", "3", *more]


def test_the_whole_comparison(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    status = run(
        command(
            facts,
            *("--reference", str(facts.base), "--gold", str(facts.gold), "--forget", str(facts.forget)),
            *("--retain", str(facts.retain), "--text", str(facts.text), "--extra-set", f"heldout={facts.heldout}"),
            *("--gate", "retain.vqa.accuracy>=reference-0.03", "--gate", "text.text.identical==1", "-o", str(out)),
            "--json",
        )
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert printed == out.read_text()
    result = EvalResult.model_validate_json(printed)
    values = {metric.id: metric for metric in result.metrics}
    assert values["forget.vqa.accuracy"].value == values["reference.forget.vqa.accuracy"].value > 0.9
    assert values["gold.forget.vqa.accuracy"].value < 0.4
    gap = values["forget.vqa.accuracy"].value - values["gold.forget.vqa.accuracy"].value
    assert values["gap.forget.vqa.accuracy"].value == pytest.approx(gap)
    assert values["delta.forget.vqa.accuracy"].value == 0.0
    assert values["text.text.agreement"].value == values["text.text.identical"].value == 1.0
    assert values["heldout.vqa.name.accuracy"].n == 6
    assert [facts.role for facts in result.models] == ["model", "reference", "gold"]
    assert {subject.subject for subject in result.subjects} == {f"subject-{i}" for i in range(1, 9)}
    assert not [name for name in (*NAMES, "house", "Who is", str(facts.forget.parent)) if name in printed]


def test_a_failing_gate_is_told_after_the_result(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    gate = "forget.vqa.name.accuracy<=0.10"
    status = run(command(facts, "--forget", str(facts.forget), "--gate", gate, "-o", str(out)))
    printed = capsys.readouterr()
    assert status == 3
    assert [(g["gate"], g["passed"]) for g in json.loads(out.read_text())["gates"]] == [(gate, False)]
    assert "FAILED" in printed.out
    assert "gate failed: forget.vqa.name.accuracy<=0.10" in printed.err
    assert not list(tmp_path.glob(".*"))


def test_the_table_is_never_cut(facts: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(facts, "--set", f"heldout={facts.heldout}", "--limit", "9")) == 0
    printed = capsys.readouterr()
    assert "heldout.general.side.accuracy" in printed.out
    assert "…" not in printed.out
    assert "--set NAME=SET is called --extra-set now" in printed.err


def test_examples_only_when_asked_for(facts: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(facts, "--forget", str(facts.heldout), "--include-examples", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert {example["subject"] for example in result["examples"]} == set(NAMES[:3])
    assert {subject["subject"] for subject in result["subjects"]} == set(NAMES[:3])
    assert {(e["said"], e["answer"]) for e in result["examples"] if e["task"] == "vqa.name"} == {
        (name, name) for name in NAMES[:3]
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget", "FORGET", "--gate", "forget.vqa.accuracy=<1"], "not a gate"),
        (["--forget", "FORGET", "--gate", "forget.vqa.acuracy<=1"], "did you mean forget.vqa.accuracy"),
        (["--forget", "FORGET", "--gate", "forget.vqa.accuracy<=gold"], "give --gold"),
        (["--forget", "FORGET", "-o", "/nowhere/at/all.json"], "does not exist"),
        (["--extra-set", "gold=FORGET"], "not a name for a set"),
        (["--extra-set", "FORGET"], "NAME=FILE"),
        (["--forget", "FORGET", "--extra-set", "forget=FORGET"], "two sets have the same name"),
        (["--forget", "FOLDER"], "has no question"),
        ([], "no set was given to measure on"),
    ],
)
def test_wrong_input_is_refused_before_the_model_is_loaded(
    facts: World, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [a.replace("FORGET", str(facts.forget)).replace("FOLDER", str(facts.forget.parent)) for a in arguments]
    assert run(["eval", "/no/such/model", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_model_of_another_kind_is_no_reference(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    other = Path(shutil.copytree(facts.gold, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    table = tokenizer["model"]["vocab"]
    table["Zoe"] = max(table.values()) + 1
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert run(command(facts, "--text", str(facts.text), "--gold", str(other))) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_only_results_are_ever_overwritten(tmp_path: Path) -> None:
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.results.evaluation import check_writable

    records = tmp_path / "forget.jsonl"
    records.write_text('{"image": "a.png"}\n')
    with pytest.raises(UserError, match="not an earlier result"):
        check_writable(records)
    result = tmp_path / "result.json"
    result.write_text('{"schema_version": 1, "kind": "evaluation", "models": [], "metrics": []}')
    check_writable(result)
    for foreign in (
        '{"schema_version": 1, "metrics": []}',
        '{"schema_version": 1, "kind": "attack.on.titan", "models": [], "metrics": []}',
        '{"schema_version": "1", "kind": "evaluation", "models": [], "metrics": []}',
        '{"schema_version": 1, "kind": "evaluation", "models": {}, "metrics": {"loss": 1}}',
    ):
        result.write_text(foreign)
        with pytest.raises(UserError, match="not an earlier result"):
            check_writable(result)
    with pytest.raises(UserError):
        check_writable(Path("/dev/null"))


def test_a_share_is_never_held_against_a_percentage() -> None:
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.gates import check_gates, parse_gates

    known = ["forget.vqa.accuracy", "relearn.ag"]
    with pytest.raises(UserError, match="not a percentage"):
        check_gates(parse_gates(["forget.vqa.accuracy<=10"]), known)
    check_gates(parse_gates(["forget.vqa.accuracy<=0.10", "relearn.ag<=10"]), known)


def test_a_processor_of_another_model_is_told(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(facts.base, model)
    path = model / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["crop_size"] = {"height": 96, "width": 96}
    config["image_processor"]["size"] = {"shortest_edge": 96}
    path.write_text(json.dumps(config))
    assert run(["eval", str(model), "--forget", str(facts.forget)]) == 2
    assert "cannot take what its processor makes" in capsys.readouterr().err
