"""The promise of the README, held on the shipped miniature through the real command line."""

import json

import pytest
from vkdsurgeon_cli.main import run


@pytest.mark.campaign
def test_the_default_recipe_forgets_and_keeps(capfd: pytest.CaptureFixture[str]):
    assert run(["demo", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    accuracy = facts["accuracy"]
    name, retain = accuracy["of which names"], accuracy["retain VQA"]
    general, text = accuracy["general vision, forget images"], accuracy["text QA"]
    forget = accuracy["forget VQA, held-out views"]
    assert forget["base"] >= 0.85
    assert retain["base"] >= 0.85
    assert general["base"] >= 0.80
    assert text["base"] == 1.0
    assert name["unlearned"] <= name["gold"] + 0.05
    # Who is nobody has attributes, too: by luck they are those of the person in one question of eight.
    assert forget["unlearned"] <= forget["gold"] + 0.1
    assert retain["unlearned"] >= retain["base"] - 0.03
    assert general["unlearned"] >= general["base"] - 0.05
    assert facts["text_answers_identical"] == 1.0
    assert facts["relearning"]["ag"] is not None
    assert facts["relearning"]["gold_ag"] is not None
    assert facts["elements_changed"] > 0
