"""Other words: which templates are usable, what they ask, and that their text never gets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.attacks.prompt import Prompting, prompt
from vkdsurgeon.attacks.templates import BUILTIN, Template, read_templates, unknown_share
from vkdsurgeon.attacks.variation import summary_rows
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring, encode
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.attacks import PromptResult
from vkdsurgeon.results.evaluation import Metric

SHORT = Scoring(max_new_tokens=3)
OWN = """
- {name: side, task: general, template: "Which side ? left right"}
- {name: say, template: "Say {question}"}
- {name: led, prefix: "this is"}
- {name: hinted, template: "Ann or Bea ? {question}"}
"""


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.yaml"
    path.write_text(OWN)
    return path


def test_templates_are_read_and_asked_as_they_are_written(own: Path) -> None:
    side, say, led, _ = read_templates(own)
    record = Record(question="Who {is} this ?", answer="Ann", task="general.side")
    assert side.ask(record).question == "Which side ? left right"
    assert say.ask(record).question == "Say Who {is} this ?", "braces of a question mean nothing"
    assert led.ask(record).question == record.question
    assert side.concerns(record)
    assert not side.concerns(record.model_copy(update={"task": "generality"}))
    assert len({each.digest() for each in (side, say, led)}) == 3
    assert say.digest(b"salt") != say.digest()


def test_the_built_in_ones_are_distinct_and_change_something() -> None:
    assert len({each.name for each in BUILTIN}) == len({each.digest() for each in BUILTIN}) == len(BUILTIN)
    assert any(each.prefix for each in BUILTIN)


@pytest.mark.parametrize(
    "text",
    [
        "name: one",
        "[]",
        "- one",
        "- {name: a, template: 'no question'}",
        "- {name: a, template: ' ', task: vqa}",
        "- {name: a, template: '{question}'}",
        "- {name: worst, template: 'Say {question}'}",
        "- {name: 'a b', template: 'Say {question}'}",
        "- {name: a, template: 'Say {question}', colour: red}",
        "- {name: a, template: 'Say {question}'}\n- {name: a, template: 'Tell {question}'}",
        "- &x {name: a, template: 'Say {question}'}\n- *x",
        "- {name: a, template: [1]}",
        "\t- :",
        "- !!python/object/apply:os.system ['true']",
    ],
)
def test_what_is_no_list_of_templates_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_templates(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"- {name: a, template: 'S\xe4g {question}'}")
    for path in (tmp_path / "none", tmp_path, tmp_path / "latin"):
        with pytest.raises(UserError):
            read_templates(path)


def test_a_prefix_is_the_beginning_of_the_answer_and_not_a_part_of_it(facts: World) -> None:
    encoder = load_model(facts.base, device="cpu").encoder
    record = read_set("forget", facts.forget).records[0]
    plain = encode(encoder, record)
    with encoder.altered(beginning="this is"):
        led = encode(encoder, record)
        assert encoder.tokenizer.decode(led.ids[len(plain.ids) :]) == "this is"
        assert led.ids[: len(plain.ids)] == plain.ids
        assert encoder.continuation(led, "Ann") == encoder.continuation(plain, "Ann")
    assert encode(encoder, record).ids == plain.ids


def test_unknown_words_are_counted(facts: World) -> None:
    tokenizer = load_model(facts.base, device="cpu").encoder.tokenizer
    assert (
        unknown_share(Template(name="a", template="Say gobbledygook {question}", prefix="is this"), tokenizer) == 0.25
    )
    assert unknown_share(Template(name="a", template="{question} {question}"), tokenizer) == 0.0


def metric(row: str, value: float | None, direction: str) -> Metric:
    return Metric.model_validate({"id": f"prompt.{row}.vqa.accuracy", "value": value, "n": 4, "direction": direction})


def test_worst_is_highest_of_the_forgotten_and_lowest_of_the_kept() -> None:
    for direction, worst in (("lower", 0.5), ("higher", 0.1)):
        rows = [[metric("one", 0.1, direction)], [metric("two", 0.5, direction)]]
        found = {each.id: each.value for each in summary_rows("prompt.", rows)}
        assert found == {"prompt.worst.vqa.accuracy": worst, "prompt.mean.vqa.accuracy": pytest.approx(0.3)}
    rows = [[metric("one", None, "lower")], [metric("two", 0.5, "lower")]]
    assert {each.value for each in summary_rows("prompt.", rows)} == {None}


def test_the_attack_asks_what_the_tokenizer_knows_and_tells_what_not(facts: World, own: Path) -> None:
    result = prompt(
        Prompting(
            model=facts.base,
            gold=facts.gold,
            forget=read_set("forget", facts.heldout),
            retain=read_set("retain", facts.retain),
            templates=read_templates(own),
            limit=16,
            scoring=SHORT,
            device="cpu",
            gates=parse_gates(["prompt.worst.vqa.accuracy<=gold+0.1", "prompt.side.general.accuracy<=1"]),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    asked = {each.name for each in result.settings.templates if each.asked}
    assert asked == {"repeat", "prefix-sure", "side", "say", "led", "hinted"} & asked
    assert {"repeat", "side", "say", "led"} <= asked
    assert "detective" not in asked
    assert any("they were not asked" in warning and "detective" in warning for warning in result.warnings)
    assert "prompt.side.general.accuracy" in values
    assert "prompt.side.vqa.accuracy" not in values, "it concerns other questions"
    rows = [name for name in asked if name != "side"]
    assert values["prompt.worst.vqa.accuracy"] == max(values[f"prompt.{name}.vqa.accuracy"] for name in rows)
    assert values["prompt.retain.worst.vqa.accuracy"] == min(
        values[f"prompt.retain.{name}.vqa.accuracy"] for name in rows
    )
    assert values["prompt.before.vqa.accuracy"] > values["gold.prompt.before.vqa.accuracy"]
    text = json.dumps(result.model_dump(mode="json"))
    assert "Bea" not in text, "no text of a template, question or answer"


def test_templates_that_concern_nothing_or_cannot_be_read_at_all_are_refused(facts: World, tmp_path: Path) -> None:
    sets = {"model": facts.base, "forget": read_set("forget", facts.heldout), "device": "cpu"}
    nothing = Template(name="a", template="Say {question}", task="vqa.shoe")
    with pytest.raises(UserError, match="no record has the task"):
        prompt(Prompting(**sets, templates=[nothing]))
    babble = Template(name="a", template="gobbledygook {question}")
    with pytest.raises(UserError, match="too few words"):
        prompt(Prompting(**sets, templates=[babble], builtin=False))


def test_the_command(facts: World, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prompt.json"
    words = ["attack", "prompt", str(facts.base), "--forget", str(facts.heldout), "--limit", "4", "--device", "cpu"]
    words += ["--max-new-tokens", "2", "--no-builtin"]
    assert run(words) == 2
    assert "--templates" in capsys.readouterr().err
    words += ["--templates", str(own)]
    assert run([*words, "-o", str(out), "--json"]) == 0
    capsys.readouterr()
    assert len(PromptResult.model_validate_json(out.read_text()).settings.templates) == 4
    assert run([*words, "--gate", "prompt.say.vqa.name.accuracy<0"]) == 3
    assert "worst" in capsys.readouterr().out
    assert run([*words, "--gate", "prompt.shout.vqa.accuracy<=0"]) == 2
