"""The relative step size: what it is, and that it means the same at any width."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.training.optimizer import unit_step


def test_a_matrix_is_measured_by_its_rms_and_fan_in():
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert unit_step(Parameter(weight * 0.3)) == pytest.approx(0.3 * weight.square().mean().sqrt().item() / 8)
    convolution = torch.full((4, 3, 2, 2), 0.5)
    assert unit_step(Parameter(convolution)) == pytest.approx(0.5 / 12**0.5)


def test_scaling_a_weight_scales_its_step_and_zeros_still_move():
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert unit_step(Parameter(weight * 10)) == pytest.approx(10 * unit_step(Parameter(weight)))
    assert unit_step(Parameter(torch.zeros(8, 16))) > 0
    assert unit_step(Parameter(torch.zeros(16))) == unit_step(Parameter(torch.ones(700))) == 0.004


def test_steps_follow_the_forget_set():
    assert Recipe().fitted(48).planned_steps == 300
    assert Recipe().fitted(0).planned_steps == 300
    assert Recipe().fitted(8000).planned_steps == 2000
    assert Recipe(forget_batch=4).fitted(1000).planned_steps == 1000
    assert Recipe(steps=7).fitted(8000).planned_steps == 7
    with pytest.raises(ValueError, match="fitted"):
        _ = Recipe().planned_steps
