"""Row-structured masks: the same step from a smaller matmul."""

import pytest
import torch
from torch import nn
from vkdsurgeon_kernels import MaskedAdamW, restrict_weight_gradients

SETTINGS = {"lr": 3e-2, "weight_decay": 0.3, "max_norm": 0.5}


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 20, bias=False), nn.Tanh(), nn.Linear(20, 5))


def _masks(model):
    row = torch.arange(20) % 4 == 0
    element = torch.rand(5, 20, generator=torch.Generator().manual_seed(2)) < 0.5
    return {
        model[0].weight: row[:, None].expand(20, 12).clone(),
        model[0].bias: row,
        model[2].weight: row[:, None].expand(20, 20).clone(),
        model[4].weight: element,
    }


@pytest.mark.parametrize("during_backward", [None, "pack"])
def test_the_restricted_backward_gives_the_same_model(during_backward):
    data = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    plain, restricted = _model(), _model()
    one = MaskedAdamW(plain.parameters(), _masks(plain), **SETTINGS)
    two = MaskedAdamW(restricted.parameters(), _masks(restricted), during_backward=during_backward, **SETTINGS)
    with restrict_weight_gradients(restricted, two) as restriction:
        assert restriction.layers == ["0", "2"], "an element-wise mask is not row-structured"
        for _ in range(3):
            for model in (plain, restricted):
                for part in data:
                    model(part).square().mean().backward()
            assert restricted[0].weight.grad is None
            for optimizer in (one, two):
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(plain.parameters(), restricted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    restricted(data[0]).sum().backward()
    assert restricted[0].weight.grad is not None or during_backward == "pack", "outside the block nothing is restricted"


def test_the_weight_gradient_is_a_matmul_over_the_selected_rows():
    from torch.utils.flop_counter import FlopCounterMode

    def backward_flops(restrict):
        model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))
        row = torch.arange(128) < 32
        masks = {model[0].weight: row[:, None].expand(128, 64).clone()}
        optimizer = MaskedAdamW(model.parameters(), masks)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in masks)
        restriction = restrict_weight_gradients(model, optimizer) if restrict else None
        loss = model(torch.randn(100, 64)).sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        assert (restriction is None) or restriction.layers == ["0"]
        return counter.get_total_flops()

    through_the_second = 2 * 100 * 128 * 64
    assert backward_flops(False) == through_the_second + 2 * 100 * 128 * 64
    assert backward_flops(True) == through_the_second + 2 * 100 * 32 * 64


def test_other_gradients_are_untouched_and_input_gradients_right():
    data = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    grads = []
    for restrict in (False, True):
        model = _model()
        optimizer = MaskedAdamW(model.parameters(), _masks(model))
        restriction = restrict_weight_gradients(model, optimizer) if restrict else None
        x = data.clone().requires_grad_()
        model(x).square().sum().backward()
        grads.append([x.grad, model[0].bias.grad, model[4].weight.grad])
        if restriction:
            restriction.remove()
            assert "forward" not in vars(model[0])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_shared_weights_and_subclasses_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), Scaled(8, 8))
    model[1].weight = model[0].weight
    row = (torch.arange(8) < 2)[:, None].expand(8, 8).clone()
    optimizer = MaskedAdamW(model.parameters(), {model[0].weight: row, model[2].weight: row})
    assert restrict_weight_gradients(model, optimizer).layers == []


def test_a_gradient_of_the_wrong_size_is_refused():
    parameter = nn.Parameter(torch.zeros(4, 2))
    mask = torch.tensor([True, False, False, False])[:, None].expand(4, 2).clone()
    optimizer = MaskedAdamW([parameter], {parameter: mask})
    with pytest.raises(ValueError, match="2 elements of this parameter are selected"):
        optimizer.add_selected_gradient(parameter, torch.zeros(4))


def _square(width=8):
    return (torch.arange(width) < 2)[:, None].expand(width, width).clone()


def test_autocast_gives_the_gradient_that_it_gives_without_restriction():
    moments = []
    for restrict in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        optimizer = MaskedAdamW(model.parameters(), {model[0].weight: _square(), model[2].weight: _square()})
        restriction = restrict_weight_gradients(model, optimizer) if restrict else None
        x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().sum()
        loss.backward()
        optimizer.step()
        assert restriction is None or model[0].weight.grad is None
        moments.append([x.grad, model[0].bias.grad, *(optimizer.state[model[n].weight]["exp_avg"] for n in (0, 2))])
    for plain, restricted in zip(*moments, strict=True):
        torch.testing.assert_close(plain, restricted, rtol=1e-2, atol=1e-3)


def test_a_layer_whose_forward_is_already_replaced_is_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = MaskedAdamW(model.parameters(), {model[0].weight: _square(), model[1].weight: _square()})
    own = model[0].forward = lambda x: x * 2
    with restrict_weight_gradients(model, optimizer) as outer:
        assert outer.layers == ["1"]
        with restrict_weight_gradients(model, optimizer) as inner:
            assert inner.layers == []
        assert "forward" in vars(model[1])
    assert model[0].forward is own
    assert "forward" not in vars(model[1])


def test_second_derivatives_through_a_restricted_layer_are_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    optimizer = MaskedAdamW(model.parameters(), {model[0].weight: _square()})
    x = torch.randn(3, 8, requires_grad=True)
    with restrict_weight_gradients(model, optimizer):
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            slope.square().sum().backward()
