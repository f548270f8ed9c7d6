"""The masked optimizer among the tools that strangers use it with."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from vkdsurgeon_kernels import MaskedAdamW
from vkdsurgeon_kernels.backend import obstacle

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _able(name):
    reason = obstacle(name, DEVICE)
    return pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


IMPLEMENTATIONS = [_able(name) for name in ("reference", "compiled", "triton")]
SETTINGS = {"lr": 3e-2, "weight_decay": 0.3}


def _every_second(parameter):
    return (torch.arange(parameter.numel()) % 2 == 0).view(parameter.shape)


def _optimizer(*parameters, **options):
    return MaskedAdamW(parameters, {p: _every_second(p) for p in parameters}, **{**SETTINGS, **options})


def _parameter(*shape, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return nn.Parameter(values.to(DEVICE, dtype))


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(DEVICE)


def _data():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).to(DEVICE)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_steps_its_own_parameters_although_a_scheduler_watches_the_original(duplicate):
    parameter = _parameter(10)
    optimizer = _optimizer(parameter)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    twin, twin_optimizer = duplicate((parameter, optimizer))
    before = parameter.detach().clone()
    twin.grad = parameter.grad = torch.ones_like(parameter)
    twin_optimizer.step()
    assert torch.equal(parameter, before)
    assert not torch.equal(twin, before)


def test_a_copy_goes_on_packing():
    parameter, optimizer = copy.deepcopy((p := _parameter(10), _optimizer(p, during_backward="pack")))
    parameter.sum().backward()
    assert parameter.grad is None
    before = parameter.detach().clone()
    optimizer.step()
    assert not torch.equal(parameter, before)


@pytest.mark.parametrize("during_backward", ["pack", "step"])
def test_forgetting_gradients_through_the_model_is_enough(during_backward):
    plain, other = _model(), _model()
    one = _optimizer(*plain.parameters())
    two = _optimizer(*other.parameters(), during_backward=during_backward)
    for _ in range(3):
        for model, optimizer in ((plain, one), (other, two)):
            model.zero_grad()
            model(_data()).square().sum().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("during_backward", [None, "pack", "step"])
def test_checkpointing_changes_nothing(use_reentrant, during_backward):
    plain, other = _model(), _model()
    one = _optimizer(*plain.parameters())
    two = _optimizer(*other.parameters(), during_backward=during_backward)
    for _ in range(3):
        plain(_data()).square().sum().backward()
        checkpoint(other, _data().requires_grad_(), use_reentrant=use_reentrant).square().sum().backward()
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_loss_scaler_scales_back_and_skips_what_overflowed():
    plain, scaled = _parameter(10), _parameter(10)
    one, two = _optimizer(plain), _optimizer(scaled)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    for factor in (1.0, float("inf"), 2.0):
        if factor != float("inf"):
            plain.grad = torch.full_like(plain, factor)
            one.step()
        two.zero_grad()
        scaler.scale(scaled.sum() * factor).backward()
        scaler.step(two)
        scaler.update()
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("during_backward", ["pack", "step"])
def test_a_loss_scaler_that_cannot_see_the_gradients_is_refused(during_backward):
    masked, seen = _parameter(10), _parameter(3)
    mask = {masked: _every_second(masked)}
    optimizer = MaskedAdamW([masked, seen], mask, during_backward=during_backward)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    scaler.scale(masked.sum() + seen.sum()).backward()
    with pytest.raises(RuntimeError, match=f"during_backward='{during_backward}'"):
        scaler.step(optimizer)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_backward_pass_through_values_that_have_moved_is_refused(implementation):
    parameter = _parameter(10)
    optimizer = _optimizer(parameter, implementation=implementation)
    loss = parameter.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_optimizer_that_is_gone_takes_no_gradients():
    parameter = _parameter(10)
    optimizer = _optimizer(parameter, during_backward="pack")
    optimizer = _optimizer(parameter)
    gc.collect()
    parameter.sum().backward()
    assert parameter.grad is not None
    before = parameter.detach().clone()
    optimizer.step()
    assert not torch.equal(parameter, before)


@pytest.mark.parametrize("second", ["pack", "step"])
def test_two_optimizers_cannot_take_the_same_gradient(second):
    parameter = _parameter(10)
    optimizers = [_optimizer(parameter, during_backward=mode) for mode in ("pack", second)]
    with pytest.raises(RuntimeError, match="detach_hooks"):
        parameter.sum().backward()
    optimizers[0].detach_hooks()
    parameter.sum().backward()
    assert parameter.grad is None


def test_packed_gradients_carry_no_graph():
    parameter = _parameter(10)
    optimizer = _optimizer(parameter)
    for _ in range(2):
        optimizer.add_selected_gradient(parameter, torch.ones(5, device=DEVICE, requires_grad=True) * 2)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.full((5,), 0.4, device=DEVICE))
    packing = _optimizer(parameter, during_backward="pack")
    with pytest.warns(UserWarning, match="create_graph"):
        parameter.pow(3).sum().backward(create_graph=True)
    assert not any(packed.requires_grad for packed in packing._packed.values())


def test_packed_gradients_summed_over_processes_are_those_of_the_whole_batch():
    data = torch.randn(8, 10, device=DEVICE)
    parameters = [_parameter(10) for _ in range(3)]
    whole, first, second = optimizers = [_optimizer(each, during_backward="pack") for each in parameters]
    for parameter, rows in zip(parameters, (data, data[:3], data[3:]), strict=True):
        (rows @ parameter).sum().backward()
    for mine, other in zip(first.packed_gradients(), second.packed_gradients(), strict=True):
        mine.add_(other)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(parameters[1], parameters[0])
    # A process without a part of the batch adds nothing.
    assert not torch.cat(whole.packed_gradients()).any()


@pytest.mark.parametrize(
    ("saved", "loaded"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float32")]
)
@pytest.mark.parametrize("implementation", ["reference", _able("triton")])
def test_a_state_goes_on_at_another_precision(saved, loaded, implementation):
    first, second = (_parameter(3000, dtype=getattr(torch, dtype)) for dtype in (saved, loaded))
    one, two = (_optimizer(p, implementation=implementation) for p in (first, second))
    first.grad = torch.ones_like(first)
    one.step()
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        second.copy_(first)
    for parameter, optimizer in ((first, one), (second, two)):
        parameter.grad = torch.full_like(parameter, -0.5)
        optimizer.step()
    states = [optimizer.state[parameter] for parameter, optimizer in ((first, one), (second, two))]
    assert ("master" in states[1]) == (loaded == "bfloat16")
    assert states[1]["exp_avg"].dtype == torch.float32
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(states[0][key].float(), states[1][key])
    torch.testing.assert_close(first.float(), second.float(), rtol=1e-2, atol=1e-2)


def test_masters_may_come_and_go_between_runs():
    parameters = [_parameter(100, dtype=torch.bfloat16) for _ in range(2)]
    for before in (True, False):
        one, two = _optimizer(*parameters, masters=before), _optimizer(*parameters, masters=not before)
        parameters[0].grad, parameters[1].grad = torch.ones_like(parameters[0]), None
        one.step()
        two.load_state_dict(one.state_dict())
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        two.step()
        assert all(("master" in two.state[parameter]) != before for parameter in parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"moments": "int8"}], ids=["float32", "int8"])
@pytest.mark.parametrize("through", [pytest.param("copy", marks=pytest.mark.campaign), "data", "one element"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_weights_that_are_put_back_between_steps_count(implementation, through, options, dtype):
    """As a best state is restored: the masters of the last one must not undo it."""
    parameter = _parameter(40, 33, dtype=dtype)
    optimizer = _optimizer(parameter, implementation=implementation, lr=0.1, weight_decay=0.0, **options)
    start = parameter.detach().clone()
    for _ in range(5):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    chosen = _every_second(parameter)
    moved = parameter.detach().clone()
    masters = optimizer.selected_values(parameter).clone()
    if through == "data":
        parameter.data.copy_(start)
    else:
        with torch.no_grad():
            parameter.copy_(start) if through == "copy" else parameter[0, 0].fill_(7.0)
    expected = parameter.detach().clone()
    found = optimizer.selected_values(parameter)
    assert torch.equal(found.to(dtype), expected[chosen])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(parameter.detach(), expected)
    if through == "one element":
        # Nothing else lost the precision that the parameter cannot hold.
        assert torch.equal(optimizer.selected_values(parameter)[1:], masters[1:])
        assert not torch.equal(masters, moved[chosen].float())


@pytest.mark.parametrize(("saved", "loaded"), [("int8", "float32"), ("float32", "int8")])
def test_a_state_with_moments_of_another_kind_is_refused(saved, loaded):
    parameter = _parameter(10)
    one, two = (_optimizer(parameter, moments=kind) for kind in (saved, loaded))
    parameter.grad = torch.ones_like(parameter)
    one.step()
    with pytest.raises(ValueError, match=f"moments='{saved}'"):
        two.load_state_dict(one.state_dict())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("change", [lambda values: values.t().contiguous().t(), lambda values: values.double()])
def test_a_parameter_that_changed_its_layout_or_dtype_is_refused(implementation, change):
    parameter = _parameter(6, 4)
    optimizer = _optimizer(parameter, implementation=implementation)
    parameter.data = change(parameter.data)
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match="before building the optimizer"):
        optimizer.step()


def test_sparse_gradients_are_refused():
    table = nn.Embedding(10, 4, sparse=True, device=DEVICE)
    optimizer = _optimizer(table.weight)
    table(torch.tensor([1, 2], device=DEVICE)).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    packing = _optimizer(table.weight, during_backward="pack")
    with pytest.raises(RuntimeError, match="sparse"):
        table(torch.tensor([1, 2], device=DEVICE)).sum().backward()
    assert packing.selected_elements == 20


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (lambda p: [torch.ones(4, dtype=torch.bool)], "masks are a list"),
        (lambda p: {"weight": torch.ones(4, dtype=torch.bool)}, "keyed by str"),
        (lambda p: {p: None}, "NoneType"),
        (lambda p: {p: [True] * 4}, "list"),
        (lambda p: {p: torch.ones(4, dtype=torch.bool, device="meta")}, "meta"),
    ],
)
def test_masks_of_a_wrong_kind_say_what_is_right(masks, message):
    parameter = _parameter(4)
    with pytest.raises(ValueError, match=message):
        MaskedAdamW([parameter], masks(parameter))


def test_a_parameter_without_values_is_refused():
    parameter = nn.Parameter(torch.empty(4, device="meta"))
    with pytest.raises(ValueError, match="meta"):
        _optimizer(parameter)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": float("nan")},
        {"eps": float("nan")},
        {"weight_decay": float("nan")},
        {"betas": (0.9,)},
        {"betas": (0.9, float("nan"))},
        {"max_norm": float("nan")},
    ],
)
def test_settings_that_are_no_numbers_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        _optimizer(_parameter(4), **options)


@pytest.mark.skipif(obstacle("compiled", DEVICE) is not None, reason="torch.compile cannot run")
def test_parameters_of_all_ranks_and_kinds_stay_compiled():
    shapes = [(), (1,), (8,), (1, 5, 8), (8, 3, 2, 2), (8, 8), (1, 8), (5, 7), (2, 3, 4, 5, 2)]
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for dtype in (torch.float32, torch.bfloat16):
            for density in (0.6, 1.0):
                parameters = [_parameter(*shape, dtype=dtype) for shape in shapes]
                generator = torch.Generator().manual_seed(4)
                masks = {p: torch.rand(p.shape, generator=generator) < density for p in parameters}
                optimizer = MaskedAdamW(parameters, masks, implementation="compiled")
                for _ in range(2):
                    for parameter in parameters:
                        parameter.grad = torch.ones_like(parameter)
                    optimizer.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_parameters_may_live_on_a_gpu_and_a_cpu():
    for options in ({}, {"max_norm": 0.5}):
        parameters = [nn.Parameter(torch.ones(3000, device=device)) for device in ("cuda", "cpu")]
        optimizer = _optimizer(*parameters, **options)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        torch.testing.assert_close(parameters[0].cpu(), parameters[1])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("density", [0.01, 0.5])
def test_a_gpu_that_is_not_the_current_one(density):
    moved = []
    for device in ("cuda:0", "cuda:1"):
        parameter = nn.Parameter(torch.ones(3000, device=device))
        mask = torch.rand(3000, generator=torch.Generator().manual_seed(5)) < density
        optimizer = MaskedAdamW([parameter], {parameter: mask}, max_norm=0.5, implementation="triton")
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved.append(parameter.detach().cpu())
    torch.testing.assert_close(*moved)
