"""The masked step: selected elements move as AdamW moves them, every other bit stays."""

import copy

import pytest
import torch
from torch import nn
from vkdsurgeon_kernels import MaskedAdamW
from vkdsurgeon_kernels.backend import compile_obstacle

IMPLEMENTATIONS = [
    "reference",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(compile_obstacle("cpu") is not None, reason="torch.compile cannot run")
    ),
]
SETTINGS = {"lr": 3e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


def _parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in [(63, 10), (7,), (3, 5, 2)]]


def _gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def _random_masks(parameters, density):
    generator = torch.Generator().manual_seed(7)
    return {p: torch.rand(p.shape, generator=generator) < density for p in parameters}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_full_mask_is_dense_adamw(implementation):
    ours, theirs = _parameters(), _parameters()
    full = {p: torch.ones(p.shape, dtype=torch.bool) for p in ours}
    masked = MaskedAdamW(ours, full, max_norm=1.0, implementation=implementation, **SETTINGS)
    dense = torch.optim.AdamW(theirs, **SETTINGS)
    for step in range(5):
        _gradients(ours, step)
        _gradients(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        masked.step()
        dense.step()
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_elements_keep_their_bits(implementation, dtype):
    parameters = _parameters(dtype)
    before = [p.detach().clone() for p in parameters]
    masks = _random_masks(parameters[:2], 0.3)
    optimizer = MaskedAdamW(parameters, masks, max_norm=0.5, implementation=implementation, **SETTINGS)
    for step in range(4):
        _gradients(parameters, step)
        optimizer.step()
    for parameter, start in zip(parameters[:2], before[:2], strict=True):
        mask = masks[parameter]
        assert torch.equal(parameter[~mask], start[~mask])
        assert (parameter[mask] != start[mask]).float().mean() > 0.9
    assert torch.equal(parameters[2], before[2]), "a parameter without a mask is frozen"
    assert parameters[2] not in optimizer.state


def test_clipping_sees_the_selected_gradient_only():
    parameter, twin = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2))
    mask = torch.tensor([True, False, True, False])
    optimizer = MaskedAdamW([parameter], {parameter: mask}, max_norm=1.0, **SETTINGS)
    dense = torch.optim.AdamW([twin], **SETTINGS)
    for scale in (1.0, 5.0):
        parameter.grad = torch.tensor([0.3 * scale, 1e9, 0.4 * scale, -1e9])
        twin.grad = torch.tensor([0.3 * scale, 0.4 * scale])
        torch.nn.utils.clip_grad_norm_([twin], 1.0)
        optimizer.step()
        dense.step()
    torch.testing.assert_close(parameter.detach()[mask], twin.detach(), rtol=1e-5, atol=1e-7)


def test_masters_keep_updates_that_bfloat16_would_swallow():
    parameter = nn.Parameter(torch.full((8,), 256.0, dtype=torch.bfloat16))
    mask = torch.ones(8, dtype=torch.bool)
    optimizer = MaskedAdamW([parameter], {parameter: mask}, lr=0.1)
    for _ in range(30):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.allclose(optimizer.selected_values(parameter), torch.full((8,), 253.0), atol=0.05)
    assert (parameter.float() < 255).all()


def test_state_holds_the_selected_elements_only():
    parameter = nn.Parameter(torch.zeros(100, dtype=torch.bfloat16))
    mask = torch.zeros(100, dtype=torch.bool)
    mask[::10] = True
    optimizer = MaskedAdamW([parameter], {parameter: mask})
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    sizes = {key: value.numel() for key, value in optimizer.state[parameter].items() if torch.is_tensor(value)}
    assert sizes == {"exp_avg": 10, "exp_avg_sq": 10, "master": 10}
    assert optimizer.selected_elements == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_in_the_middle_changes_nothing(dtype):
    straight, broken = _parameters(dtype), _parameters(dtype)
    one = MaskedAdamW(straight, _random_masks(straight, 0.5), **SETTINGS)
    two = MaskedAdamW(broken, _random_masks(broken, 0.5), **SETTINGS)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(two.state_dict())
            two = MaskedAdamW(broken, _random_masks(broken, 0.5), **SETTINGS)
            two.load_state_dict(state)
        for parameters, optimizer in ((straight, one), (broken, two)):
            _gradients(parameters, step)
            optimizer.step()
    for a, b in zip(straight, broken, strict=True):
        assert torch.equal(a, b)


def test_schedulers_work():
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = MaskedAdamW([parameter], {parameter: torch.ones(3, dtype=torch.bool)}, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    for _ in range(2):
        parameter.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), -1.0))


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (torch.zeros(3, dtype=torch.bool), {}, "select no element"),
        (torch.ones(4, dtype=torch.bool), {}, "parameter's shape"),
        (torch.ones(3), {}, "bool"),
        (torch.ones(3, dtype=torch.bool), {"lr": -1.0}, "lr -1.0"),
        (torch.ones(3, dtype=torch.bool), {"max_norm": 0.0}, "max_norm"),
    ],
)
def test_wrong_arguments_say_what_is_right(mask, options, message):
    parameter = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=message):
        MaskedAdamW([parameter], {parameter: mask}, **options)
