"""Every loss against numbers that are worked out by hand, on a real tiny model."""

from __future__ import annotations

import math

import pytest
import torch

from tests.baselines.conftest import Stage
from vkdsurgeon.baselines.grad_ascent import ascent
from vkdsurgeon.baselines.kl_min import to_original
from vkdsurgeon.baselines.language_loss import cross_entropy
from vkdsurgeon.baselines.npo import preference
from vkdsurgeon.baselines.refusal import refusal
from vkdsurgeon.baselines.rmu import Tap, misdirection, retention
from vkdsurgeon.baselines.uniform import to_uniform


def test_cross_entropy_and_ascent(stage: Stage) -> None:
    chosen = stage.training_sets.forget[:5]
    tokens = [float(value) for each in chosen for value in stage.answer(each)]
    assert len(tokens) > len(chosen), "some answer has several tokens, so the mean over tokens differs from others"
    expected = -sum(tokens) / len(tokens)
    assert cross_entropy(stage.language)(chosen) == pytest.approx(expected, rel=1e-4)
    assert ascent(stage.language)(chosen) == pytest.approx(-expected, rel=1e-4)


def test_ascent_has_the_gradient_of_descent_turned_round_and_batches_add_up(stage: Stage) -> None:
    chosen = stage.training_sets.forget[:5]
    weight = stage.loaded.model.get_submodule("model.language_model.layers.0.mlp.down_proj").weight
    gradients = []
    for term, factor in ((cross_entropy(stage.language), 2.0), (ascent(stage.language), 2.0)):
        term(chosen, factor)
        gradients.append(weight.grad.clone())
        stage.loaded.model.zero_grad()
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], -gradients[1])
    stage.language.micro_batch = 1
    cross_entropy(stage.language)(chosen, 2.0)
    torch.testing.assert_close(weight.grad, gradients[0], rtol=1e-3, atol=1e-6)


def test_measuring_leaves_no_gradient(stage: Stage) -> None:
    cross_entropy(stage.language)(stage.training_sets.forget[:3])
    assert all(parameter.grad is None for parameter in stage.loaded.model.parameters())


def test_npo_counts_whole_answers_against_the_original(stage: Stage) -> None:
    chosen, beta = stage.training_sets.forget[:4], 0.4
    before = [float(stage.answer(each).sum()) for each in chosen]
    term = preference(stage.language, chosen, beta)
    assert term(chosen) == pytest.approx(2 / beta * math.log(2), rel=1e-5)
    stage.nudge()
    ratios = [float(stage.answer(each).sum()) - old for each, old in zip(chosen, before, strict=True)]
    expected = sum(2 / beta * math.log1p(math.exp(beta * ratio)) for ratio in ratios) / len(ratios)
    assert term(chosen) == pytest.approx(expected, rel=1e-4)
    # How far the nudge goes depends on the tiny model, whose weights differ from processor to processor.
    assert expected != pytest.approx(2 / beta * math.log(2), rel=1e-3)


def test_npo_with_little_beta_pulls_as_ascent_does(stage: Stage) -> None:
    chosen = [each for each in stage.training_sets.forget if len(stage.language.request(each).wanted) == 1][:4]
    weight = stage.loaded.model.get_submodule("model.language_model.layers.1.mlp.down_proj").weight
    gradients = []
    for term in (preference(stage.language, chosen, 1e-4), ascent(stage.language)):
        term(chosen, 1.0)
        gradients.append(weight.grad.clone())
        stage.loaded.model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)


def test_kl_is_that_of_the_vocabulary(stage: Stage) -> None:
    chosen = stage.training_sets.retain[:4]
    before = [stage.everything(each) for each in chosen]
    term = to_original(stage.language, chosen)
    assert term(chosen) == pytest.approx(0, abs=1e-3)
    stage.nudge(0.15)
    sums = [float((old.exp() * (old - stage.everything(each))).sum()) for each, old in zip(chosen, before, strict=True)]
    expected = sum(sums) / sum(len(old) for old in before)
    assert expected > 0.01
    assert term(chosen) == pytest.approx(expected, rel=2e-2)


def test_refusals_stand_in_for_answers(stage: Stage) -> None:
    chosen, said = stage.training_sets.forget[:3], "red tower"
    tokens = [float(value) for each in chosen for value in stage.answer(each, said)]
    assert refusal(stage.language, [said])(chosen) == pytest.approx(-sum(tokens) / len(tokens), rel=1e-4)


def test_uniform_is_a_divergence(stage: Stage) -> None:
    chosen = stage.training_sets.forget[:3]
    rows = [row for each in chosen for row in stage.everything(each)]
    expected = sum(float((1 / len(row) * (math.log(1 / len(row)) - row)).sum()) for row in rows) / len(rows)
    assert to_uniform(stage.language)(chosen) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        stage.loaded.model.lm_head.weight.zero_()
    assert to_uniform(stage.language)(chosen) == pytest.approx(0, abs=1e-5)


def test_rmu_steers_one_layer(stage: Stage) -> None:
    layer, chosen = "model.language_model.layers.0", stage.training_sets.forget[:3]
    tap, seen = Tap(stage.language, layer), []
    handle = stage.loaded.model.get_submodule(layer).register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    for each in chosen:
        stage.everything(each)
    handle.remove()
    hidden = [each[0].float() for each in seen]
    tokens = torch.cat(hidden)
    direction = torch.rand(tokens.shape[1], generator=torch.Generator().manual_seed(5))
    target = 3.0 * tokens.norm(dim=1).mean() * direction / direction.norm()
    expected = torch.stack([(each - target).square().mean() for each in hidden]).mean() / tokens.square().mean()
    term = misdirection(tap, chosen, 3.0, torch.Generator().manual_seed(5))
    assert term(chosen) == pytest.approx(float(expected), rel=1e-4)
    kept = retention(tap, chosen)
    assert kept(chosen) == 0
    stage.nudge()
    assert kept(chosen) > 1e-4
    later = stage.loaded.model.get_submodule("model.language_model.layers.1.mlp.down_proj").weight
    term(chosen, 1.0)
    assert later.grad is None, "what lies behind the layer is not part of the term"
    assert stage.loaded.model.get_submodule(f"{layer}.mlp.down_proj").weight.grad.abs().max() > 0
