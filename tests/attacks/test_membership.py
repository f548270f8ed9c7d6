"""Members against non-members: the scores by hand, and likelihoods that are those of the evaluation."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.attacks.gradient_norm import gradient_norms
from vkdsurgeon.attacks.membership import Inferring, answer_likelihoods, membership, separation
from vkdsurgeon.attacks.membership_scores import SCORES, answer_tokens, min_k
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring, answer_records, encode
from vkdsurgeon.model.batches import Request, answer_request, log_probabilities
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.attacks import MembershipResult

SHORT = Scoring(max_new_tokens=3)


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def test_min_k_by_hand() -> None:
    values = [-0.1, -3.0, -1.0, -0.2, -5.0, -0.3, -0.4, -0.5, -0.6, -0.7]
    assert min_k(values, 20) == -4.0
    assert min_k(values, 1) == -5.0
    assert min_k(values, 100) == pytest.approx(-1.18)
    assert min_k([-2.0], 20) == -2.0


def test_scores_by_hand() -> None:
    answer = replace(answer_tokens("ada", [(-1.0, -2.0, 0.5), (-3.0, -2.0, 0.5), (0.0, 0.0, 0.0)]), gradient_norm=7.0)
    assert answer.standardised == (2.0, -2.0, 0.0)
    found = {name: score(answer, 34.0) for name, score in SCORES.items()}
    assert found == {
        "loss": pytest.approx(-4 / 3),
        "min_k": -3.0,
        "min_k_plus": -2.0,
        "zlib": pytest.approx(-4 / len(zlib.compress(b"ada"))),
        "grad_norm": -7.0,
    }


def measured(members: list[float], outsiders: list[float]) -> dict[str, float | None]:
    found = separation("m", members, outsiders, range(len(members)), range(len(outsiders)), seed=0)
    return {metric.id: metric.value for metric in found}


def test_separation_by_hand() -> None:
    assert measured([3.0, 2.0], [1.0, 0.0]) == {"m.auc": 1.0, "m.advantage": 1.0, "m.tpr_at_fpr_5": 1.0, "m.ks": 1.0}
    assert measured([0.0, 1.0], [2.0, 3.0]) == {"m.auc": 0.0, "m.advantage": 1.0, "m.tpr_at_fpr_5": 0.0, "m.ks": 1.0}
    assert measured([1.0, 1.0], [1.0, 1.0]) == {"m.auc": 0.5, "m.advantage": 0.0, "m.tpr_at_fpr_5": 0.0, "m.ks": 0.0}
    # 4 of 6 pairs are in the right order, one is a tie.
    assert measured([3.0, 2.0], [2.0, 1.0, 2.5])["m.auc"] == pytest.approx(4.5 / 6)
    assert measured([float("nan")], [1.0])["m.auc"] is None


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(0.4, 1.0, 30).round(1).tolist(), generator.normal(0.0, 2.0, 20).round(1).tolist()
    assert measured(inside, outside)["m.ks"] == pytest.approx(ks_2samp(inside, outside).statistic)


def test_whole_images_are_resampled() -> None:
    scores = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    spread = []
    for origins in ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5]):
        auc = separation("m", scores, [0.5] * 6, origins, origins, seed=0)[0]
        assert auc.low is not None
        assert auc.high is not None
        spread.append(auc.high - auc.low)
    assert spread[0] > spread[1], "two images tell less than six"


def test_likelihoods_are_those_that_options_are_chosen_by(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    records = [record for record in read_set("forget", facts.heldout).records if record.options]
    answers = answer_records(loaded, records, SHORT)
    likelihoods = answer_likelihoods(loaded, records, 4)
    assert {len(each.log_probabilities) for each in likelihoods} == {1, 2}
    for answer, each in zip(answers, likelihoods, strict=True):
        right = answer.record.options.index(str(answer.record.answer))
        assert sum(each.log_probabilities) == pytest.approx(answer.log_likelihoods[right], abs=1e-4)


def test_tokens_are_standardised_by_what_could_stand_in_their_place(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    (record, *_) = read_set("forget", facts.heldout).records
    (found,) = answer_likelihoods(loaded, [record], 1)
    prompt = encode(loaded.encoder, record)
    (first, *_) = loaded.encoder.continuation(prompt, str(record.answer))
    every = tuple(range(loaded.model.config.get_text_config().vocab_size))
    with torch.inference_mode():
        (row,) = log_probabilities(loaded, [Request(prompt, (), (every,))])[0].double()
    mean = (row.exp() * row).sum()
    deviation = ((row - mean).square() * row.exp()).sum().sqrt()
    assert found.standardised[0] == pytest.approx(float((row[first] - mean) / deviation), rel=1e-3)


def test_gradient_norms_are_those_of_the_whole_gradient(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    forget = list(read_set("forget", facts.forget).records)
    records = [next(each for each in forget if each.task == task) for task in ("vqa.home", "vqa.name")]
    weights = list(loaded.model.parameters())
    before = [weight.clone() for weight in weights]
    expected = []
    for record in records:
        request = answer_request(loaded.encoder, encode(loaded.encoder, record), str(record.answer))
        loss = -log_probabilities(loaded, [request]).mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        expected.append(float(torch.cat([each.flatten() for each in gradients if each is not None]).norm()))
    assert gradient_norms(loaded, records) == pytest.approx(expected, rel=1e-4)
    assert gradient_norms(loaded, records[::-1]) == pytest.approx(expected[::-1], rel=1e-4), "nothing is carried over"
    assert all(weight.grad is None and torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_the_attack(facts: World) -> None:
    attack = Inferring(
        model=facts.base,
        gold=facts.gold,
        forget=read_set("forget", facts.forget),
        nonmembers=read_set("nonmembers", facts.heldout),
        retain=read_set("retain", facts.retain),
        limit=24,
        scoring=SHORT,
        device="cpu",
        gates=parse_gates(["membership.loss.advantage<=gold+1", "gold.membership.min_k.auc<=1"]),
    )
    result = membership(attack)
    values = {metric.id: metric.value for metric in result.metrics}
    assert all(gate.passed for gate in result.gates)
    assert values["membership.retain.before.vqa.name.accuracy"] > 0.8
    for role in ("", "gold."):
        auc = values[f"{role}membership.loss.auc"]
        assert auc is not None
        assert values[f"{role}membership.loss.advantage"] == pytest.approx(abs(2 * auc - 1))
    assert values["membership.min_k.auc"] != values["membership.loss.auc"], "some answers have two tokens"
    assert values["membership.grad_norm.auc"] not in (None, values["membership.loss.auc"])
    assert result.settings.members == 24
    again = membership(replace(attack, gold=None, retain=None, gates=(), gradient=False))
    assert [metric for metric in result.metrics if metric in again.metrics] == again.metrics, "the seed decides"
    assert not any("grad_norm" in metric.id for metric in again.metrics)


def test_members_cannot_be_their_own_non_members(facts: World) -> None:
    forget = read_set("forget", facts.forget)
    with pytest.raises(UserError, match="in the members and in the non-members"):
        membership(Inferring(model=facts.base, forget=forget, nonmembers=read_set("nonmembers", facts.forget)))
    with pytest.raises(UserError, match="no question that could tell"):
        membership(Inferring(model=facts.base, forget=forget, nonmembers=read_set("nonmembers", facts.text)))


def test_the_command(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "membership.json"
    words = ["attack", "membership", str(facts.base), "--forget", str(facts.forget), "--nonmembers", str(facts.heldout)]
    words += ["--limit", "8", "--device", "cpu", "--max-new-tokens", "2"]
    assert run([*words, "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["kind"] == "attack.membership"
    assert "no gold model" in printed.err
    assert MembershipResult.model_validate_json(out.read_text()).settings.k_percent == 20.0
    assert run([*words, "--gate", "membership.loss.auc<0"]) == 3
    assert "grad_norm" in capsys.readouterr().out
    assert run([*words, "--no-gradient", "--gate", "membership.grad_norm.ks<=1"]) == 2
    assert run([*words, "--gate", "membership.loss.auc<50"]) == 2
    assert run([*words, "--gate", "membership.gradient.auc<=0.5"]) == 2
    assert run([*words, "--k", "0"]) == 2
