"""Projected updates: retained inputs see less of them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unlearning.test_surgery import QUICK, pictures, run
from vkdsurgeon.hardening.null_space import input_directions, project, project_updates
from vkdsurgeon.lessons import make_lessons
from vkdsurgeon.masking import choose_mask
from vkdsurgeon.surgery import Job, prepare
from vkdsurgeon.unlearn import make_optimizer, pass_over


def inputs(rank: int, width: int = 12, count: int = 200, seed: int = 0) -> torch.Tensor:
    """Inputs that lie close to a subspace, with falling power along it."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    scales = torch.where(torch.arange(width) < rank, 1.0 / (1 + torch.arange(width)), 1e-3)
    return torch.randn(count, width, generator=generator) * scales @ basis.T


def test_the_directions_hold_their_share_and_no_more_than_needed():
    a = inputs(rank=4)
    moment = a.T @ a
    for share in (0.3, 0.9, 0.999):
        basis = input_directions(moment, share)
        held = float((a @ basis).square().sum() / a.square().sum())
        assert held >= share
        assert float((a @ basis[:, :-1]).square().sum() / a.square().sum()) < share
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.3, 0.7, 1.0]), share=st.sampled_from([0.5, 0.99]))
def test_retained_outputs_move_less_at_an_equal_step(seed: int, density: float, share: float):
    generator = torch.Generator().manual_seed(seed)
    a = inputs(rank=4, seed=seed)
    basis = input_directions(a.T @ a, share)
    mask = torch.rand(6, 12, generator=generator) < density
    mask[0] = True
    update = torch.randn(6, 12, generator=generator) * mask
    projected = project(update, basis, mask)
    assert not projected[~mask].any()
    equal = projected * (update.norm() / projected.norm().clamp_min(1e-12))
    assert (a @ equal.T).norm() < (a @ update.T).norm()
    if density == 1.0:
        assert (a @ projected.T).square().sum() <= (1 - share) * a.square().sum() * update.square().sum() * 1.01


def test_without_a_mask_the_projection_is_exact_and_idempotent():
    a = inputs(rank=3)
    basis = input_directions(a.T @ a, 0.99)
    update = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    once = project(update, basis)
    assert torch.allclose(once @ basis, torch.zeros(6, basis.shape[1]), atol=1e-6)
    assert torch.allclose(project(once, basis), once, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_the_optimizer_is_projected(llava: Path, sets: dict[str, Path], dtype: torch.dtype):
    """Retained drift per unit of way is smaller with projection, and frozen elements keep their bits."""
    seen = {}
    for share in (0.0, 0.99):
        recipe = QUICK.model_copy(update={"null_space": share, "density": 0.5})
        prepared = prepare(Job(llava, pictures(sets, "forget"), pictures(sets, "retain"), [], recipe, dtype=dtype))
        stack = prepared.stack
        generator = torch.Generator().manual_seed(0)
        lessons = make_lessons(stack, prepared.forget, prepared.keep, recipe, generator).both
        mask = choose_mask(stack, lessons, recipe, generator)
        weights = stack.visual_parameters()
        optimizer = make_optimizer(weights, mask, recipe)
        if share:
            project_updates(stack, lessons[1], optimizer, recipe)
        linear = {module.weight for module in stack.modules() if type(module) is nn.Linear}
        for group in optimizer.param_groups:
            group["lr"] = group["unit_step"] if group["params"][0] in linear else 0.0
        before = {name: value.detach().clone() for name, value in weights.items()}
        pass_over(stack, lessons[0], lessons[0].train, recipe, learn=True)
        optimizer.step()
        way = sum(float((weights[name].detach() - before[name]).float().square().sum()) for name in weights)
        seen[share] = pass_over(stack, lessons[1], lessons[1].train, recipe).drift / way
        for name, value in weights.items():
            chosen = mask.selected[name].to_bool() if name in mask.selected else torch.zeros_like(value).bool()
            assert torch.equal(value.detach()[~chosen], before[name][~chosen])
            master = optimizer.state[value].get("master") if name in mask.selected else None
            if master is not None:
                assert torch.equal(value.detach()[chosen], master.to(dtype))
    assert seen[0.99] < 0.7 * seen[0.0]


def test_a_projected_run_still_forgets(llava: Path, sets: dict[str, Path]):
    outcome, _ = run(llava, sets, QUICK.model_copy(update={"null_space": 0.9, "density": 1.0}))
    assert outcome.verdicts[0].forget_ratio < 0.9
