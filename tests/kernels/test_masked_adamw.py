"""The masked step: selected elements move as AdamW moves them, every other bit stays."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from vkdsurgeon_kernels import BitMask, MaskedAdamW
from vkdsurgeon_kernels.backend import obstacle
from vkdsurgeon_kernels.masked_adamw.operator import accumulate_selected_, masked_adamw_, selected_square_sum
from vkdsurgeon_kernels.masked_adamw.selection import Selection

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _able(name, *marks):
    reason = obstacle(name, DEVICE)
    return pytest.param(name, marks=[pytest.mark.skipif(reason is not None, reason=str(reason)), *marks])


IMPLEMENTATIONS = [_able(name) for name in ("reference", "compiled", "triton")]
SELDOM_COMPILED = [_able("reference"), _able("compiled", pytest.mark.campaign), _able("triton")]
SELDOM_INTERPRETED = [_able("reference"), _able("compiled"), _able("triton", pytest.mark.campaign)]
SETTINGS = {"lr": 3e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}
# A last block that is nearly empty, one that is full, one parameter smaller than a word.
SHAPES = [(63, 40), (7,), (3, 5, 2), (1024,), (33, 64)]


def _parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE, dtype)) for shape in shapes]


def _gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def _random_masks(parameters, density):
    generator = torch.Generator().manual_seed(7)
    return {p: (torch.rand(p.shape, generator=generator) < density).to(DEVICE) for p in parameters}


class _Float64:
    """Dense AdamW of torch in float64 on the selected elements alone: the truth."""

    def __init__(self, parameters, masks, max_norm=None, **settings):
        self.parameters, self.masks, self.max_norm = parameters, masks, max_norm
        self.twins = [nn.Parameter(p.detach()[masks[p]].double()) for p in parameters]
        self.optimizer = torch.optim.AdamW(self.twins, **settings)

    def step(self):
        for twin, parameter in zip(self.twins, self.parameters, strict=True):
            twin.grad = parameter.grad[self.masks[parameter]].double()
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.twins, self.max_norm)
        self.optimizer.step()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("max_norm", [None, 0.7])
def test_states_and_values_follow_float64(implementation, density, max_norm):
    parameters = _parameters()
    masks = _random_masks(parameters, density)
    parameters = [p for p in parameters if masks[p].any()]
    ours = MaskedAdamW(parameters, masks, max_norm=max_norm, implementation=implementation, **SETTINGS)
    truth = _Float64(parameters, masks, max_norm, **SETTINGS)
    for step in range(5):
        _gradients(parameters, step)
        ours.step()
        truth.step()
    for parameter, twin in zip(parameters, truth.twins, strict=True):
        state, true_state = ours.state[parameter], truth.optimizer.state[twin]
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[key].double(), true_state[key], rtol=2e-6, atol=2e-7)
        torch.testing.assert_close(parameter.detach()[masks[parameter]].double(), twin.detach(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_full_mask_is_dense_adamw(implementation):
    ours, theirs = _parameters(), _parameters()
    full = {p: torch.ones_like(p, dtype=torch.bool) for p in ours}
    masked = MaskedAdamW(ours, full, max_norm=1.0, implementation=implementation, **SETTINGS)
    dense = torch.optim.AdamW(theirs, **SETTINGS)
    for step in range(5):
        _gradients(ours, step)
        _gradients(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        masked.step()
        dense.step()
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(masked.state[mine]["exp_avg"].view(mine.shape), dense.state[truth]["exp_avg"])
        torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-6)


def _frozen_cases():
    """Every implementation, dtype and way of keeping moments; what compiles longest only with the campaigns."""
    daily = [
        (torch.float32, {}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"moments": "int8"}),
        (torch.float32, {"during_backward": "pack"}),
    ]
    others = [
        (torch.float16, {}),
        (torch.float32, {"moments": "int8"}),
        (torch.float16, {"moments": "int8"}),
        (torch.bfloat16, {"during_backward": "pack"}),
        (torch.float16, {"during_backward": "pack"}),
    ]
    for name in ("reference", "compiled", "triton"):
        for dtype, options in (*daily, *others):
            seldom = (dtype, options) in others or (name == "compiled" and "moments" in options)
            marks = [*_able(name).marks, *([pytest.mark.campaign] if seldom else [])]
            words = "-".join([str(dtype).removeprefix("torch."), *options.values()])
            yield pytest.param(name, dtype, options, marks=marks, id=f"{words}-{name}")


@pytest.mark.parametrize("density", [pytest.param(0.01, marks=pytest.mark.campaign), 0.3])
@pytest.mark.parametrize(("implementation", "dtype", "options"), _frozen_cases())
def test_frozen_elements_keep_their_bits(implementation, dtype, density, options):
    parameters = _parameters(dtype)
    before = [p.detach().clone() for p in parameters]
    masks = _random_masks(parameters[:-1], density)
    optimizer = MaskedAdamW(parameters, masks, max_norm=5.0, implementation=implementation, **options, **SETTINGS)
    for step in range(4):
        _gradients(parameters, step)
        optimizer.step()
        optimizer.zero_grad()
    for parameter, start in zip(parameters[:-1], before[:-1], strict=True):
        mask = masks[parameter]
        assert torch.equal(parameter[~mask], start[~mask])
    moved = sum(int((p != start).sum()) for p, start in zip(parameters, before, strict=True))
    assert moved > 0.8 * optimizer.selected_elements
    assert torch.equal(parameters[-1], before[-1]), "a parameter without a mask is frozen"
    assert parameters[-1] not in optimizer.state


def test_implementations_agree_on_which_elements_an_uneven_mask_selects():
    # One full block, one empty block, one block with its last element only, a tail of five.
    mask = torch.zeros(3 * 1024 + 5, dtype=torch.bool)
    mask[:1024], mask[3071], mask[3074] = True, True, True
    moved = []
    for implementation in ("reference", *(["triton"] if obstacle("triton", DEVICE) is None else [])):
        parameter = nn.Parameter(torch.zeros(mask.shape, device=DEVICE))
        optimizer = MaskedAdamW([parameter], {parameter: mask.to(DEVICE)}, lr=1.0, implementation=implementation)
        parameter.grad = torch.arange(1.0, 3 * 1024 + 6, device=DEVICE)
        optimizer.step()
        moved.append(parameter.detach().cpu() != 0)
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"].cpu(), 0.1 * parameter.grad.cpu()[mask])
    assert all(torch.equal(found, mask) for found in moved)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_clipping_sees_the_selected_gradient_only(implementation):
    parameter, twin = nn.Parameter(torch.zeros(4, device=DEVICE)), nn.Parameter(torch.zeros(2, device=DEVICE))
    mask = torch.tensor([True, False, True, False], device=DEVICE)
    optimizer = MaskedAdamW([parameter], {parameter: mask}, max_norm=1.0, implementation=implementation, **SETTINGS)
    dense = torch.optim.AdamW([twin], **SETTINGS)
    for scale in (1.0, 5.0):
        parameter.grad = torch.tensor([0.3 * scale, 1e9, 0.4 * scale, -1e9], device=DEVICE)
        twin.grad = torch.tensor([0.3 * scale, 0.4 * scale], device=DEVICE)
        torch.nn.utils.clip_grad_norm_([twin], 1.0)
        optimizer.step()
        dense.step()
    torch.testing.assert_close(parameter.detach()[mask], twin.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_frozen_gradients_that_are_not_finite_do_no_harm(implementation):
    parameter = nn.Parameter(torch.ones(2000, device=DEVICE))
    mask = torch.arange(2000, device=DEVICE) % 3 == 0
    optimizer = MaskedAdamW([parameter], {parameter: mask}, max_norm=1.0, implementation=implementation, **SETTINGS)
    parameter.grad = torch.where(mask, 0.5, float("nan"))
    optimizer.step()
    assert parameter.isfinite().all()
    assert (parameter[mask] != 1).all()


def test_masters_keep_updates_that_bfloat16_would_swallow():
    parameter = nn.Parameter(torch.full((8,), 256.0, dtype=torch.bfloat16))
    mask = torch.ones(8, dtype=torch.bool)
    optimizer = MaskedAdamW([parameter], {parameter: mask}, lr=0.1)
    for _ in range(30):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.allclose(optimizer.selected_values(parameter), torch.full((8,), 253.0), atol=0.05)
    assert (parameter.float() < 255).all()


@pytest.mark.parametrize("implementation", SELDOM_COMPILED)
def test_stochastic_rounding_moves_by_the_right_amount_on_average(implementation):
    parameter = nn.Parameter(torch.full((40_000,), 256.0, dtype=torch.bfloat16, device=DEVICE))
    mask = torch.ones(40_000, dtype=torch.bool, device=DEVICE)
    optimizer = MaskedAdamW([parameter], {parameter: mask}, lr=0.1, masters=False, implementation=implementation)
    for _ in range(10):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert "master" not in optimizer.state[parameter]
    # Neighbours of 256 are 255 and 258: rounding to nearest would never move. Ten steps of 0.1 have a standard error
    # of at most sqrt(10 * 2 * 2 / 4 / 40000) = 0.016.
    assert parameter.float().mean().item() == pytest.approx(255.0, abs=0.06)
    assert set(parameter.float().unique().tolist()) >= {255.0, 256.0}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_stochastic_rounding_draws_the_same_bits_everywhere(implementation):
    results = []
    for name in ("reference", implementation):
        parameters = _parameters(torch.bfloat16)
        masks = _random_masks(parameters, 0.3)
        optimizer = MaskedAdamW(parameters, masks, masters=False, seed=5, implementation=name, **SETTINGS)
        for step in range(3):
            _gradients(parameters, step)
            optimizer.step()
        results.append(torch.cat([p.detach().view(-1).float() for p in parameters]))
    # The sums before rounding may differ in the last bit, which turns a rounding once in 2 ** 16 draws or so.
    assert (results[0] != results[1]).float().mean() < 0.002


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_eight_bit_moments_stay_close_to_float32(implementation):
    exact, coarse = _parameters(), _parameters()
    one = MaskedAdamW(exact, _random_masks(exact, 0.4), **SETTINGS)
    two = MaskedAdamW(coarse, _random_masks(coarse, 0.4), moments="int8", implementation=implementation, **SETTINGS)
    start = [p.detach().clone() for p in exact]
    for step in range(20):
        _gradients(exact, step)
        _gradients(coarse, step)
        one.step()
        two.step()
    distance = sum(float((a - b).detach().square().sum()) for a, b in zip(exact, start, strict=True)) ** 0.5
    error = sum(float((a - b).detach().square().sum()) for a, b in zip(exact, coarse, strict=True)) ** 0.5
    assert error < 0.05 * distance
    state = two.state[coarse[0]]
    assert state["exp_avg"].element_size() == state["exp_avg_sq"].element_size() == 1
    assert state["scales"].shape == (2, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_eight_bit_moments_agree_between_implementations(implementation):
    states = []
    for name in ("reference", implementation):
        parameters = _parameters()
        optimizer = MaskedAdamW(
            parameters, _random_masks(parameters, 0.4), moments="int8", implementation=name, **SETTINGS
        )
        for step in range(3):
            _gradients(parameters, step)
            optimizer.step()
        states.append([optimizer.state[p] for p in parameters])
    for ours, truth in zip(*states, strict=True):
        torch.testing.assert_close(ours["scales"], truth["scales"], rtol=1e-4, atol=0)
        for key in ("exp_avg", "exp_avg_sq"):
            # One unit where the last bit of a root decides how a code is rounded.
            assert (ours[key].int() - truth[key].int()).abs().max() <= 1
            assert (ours[key] != truth[key]).float().mean() < 0.02


@settings(max_examples=25, deadline=None)
@given(scale=st.sampled_from([1e-18, 1e-6, 1.0, 1e8]), spread=st.floats(0, 3), seed=st.integers(0, 99))
def test_the_eight_bit_code_bounds_its_error(scale, spread, seed):
    from vkdsurgeon_kernels.masked_adamw import moments

    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(300, generator=generator) * (torch.randn(300, generator=generator) * spread).exp() * scale
    second = first.square().clamp_max(1e30)
    blocks = torch.arange(300) // 100
    average, square = torch.zeros(300, dtype=torch.int8), torch.zeros(300, dtype=torch.uint8)
    scales = torch.zeros(2, 3)
    moments.encode(first, second, average, square, scales, blocks, torch.tensor(seed))
    back_first, back_second = moments.decode(average, square, scales, blocks)
    share = (first.abs() / scales[0][blocks]).sqrt()
    # q is off by half a unit at most: |d(m)| = 2 sqrt(|m| a) / 127 * 0.5 and a term of second order.
    assert ((back_first - first).abs() <= scales[0][blocks] * (share / 127 + 0.25 / 127**2) * 1.001).all()
    root = (second / scales[1][blocks]).sqrt().sqrt()
    # One of the two neighbours: |d(v)| = 4 (v / a)^(3/4) a / 255 and terms of higher order.
    assert ((back_second - second).abs() <= scales[1][blocks] * ((root + 1.01 / 255) ** 4 - root**4) * 1.001).all()
    # The denominator of a step never vanishes.
    assert (back_second[second >= 1e-30] > 0).all()


@pytest.mark.parametrize("implementation", SELDOM_INTERPRETED)
def test_the_second_moment_in_eight_bits_follows_the_true_one(implementation):
    """It changes by a thousandth a step: rounded up it would only ever grow, rounded to nearest stand still."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(2048, device=DEVICE))
    spread = torch.randn(2048).exp()
    optimizer = MaskedAdamW(
        [weight],
        {weight: torch.rand(2048) < 0.9},
        lr=0.0,
        max_norm=None,
        moments="int8",
        implementation=implementation,
    )
    chosen = optimizer.selection(weight).to_bool().cpu()
    truth = torch.zeros(2048)
    for step in range(300):
        gradient = torch.randn(2048) * spread * (1.0 if step < 150 else 0.1)
        truth = 0.999 * truth + 0.001 * gradient.square()
        weight.grad = gradient.to(DEVICE)
        optimizer.step()
    state = optimizer.state[weight]
    scales = state["scales"].cpu()[1][torch.arange(2048)[chosen] // 1024]
    found = (state["exp_avg_sq"].cpu().float() / 255) ** 4 * scales
    ratio = found / truth[chosen]
    assert 0.97 < float(ratio.mean()) < 1.03
    assert 0.9 < float(ratio.median()) < 1.1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("density", [0.01, 0.4])
def test_packing_during_backward_changes_nothing_but_memory(implementation, density):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(40, 63), nn.Tanh(), nn.Linear(63, 9)).to(DEVICE)

    data = torch.randn(16, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    plain, packing = model(), model()
    masks = [_random_masks(list(m.parameters()), density) for m in (plain, packing)]
    one = MaskedAdamW(plain.parameters(), masks[0], max_norm=0.1, implementation=implementation, **SETTINGS)
    two = MaskedAdamW(
        packing.parameters(), masks[1], max_norm=0.1, during_backward="pack", implementation=implementation, **SETTINGS
    )
    for _ in range(3):
        for part in data.split(8):
            plain(part).square().mean().backward()
            packing(part).square().mean().backward()
            assert all(p.grad is None for p in packing.parameters() if p in two.state or masks[1][p].any())
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(plain.parameters(), packing.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_stepping_during_backward_is_the_same_step(implementation):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(40, 63), nn.Tanh(), nn.Linear(63, 9)).to(DEVICE)

    data = torch.randn(16, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    plain, eager = model(), model()
    one = MaskedAdamW(
        plain.parameters(), _random_masks(list(plain.parameters()), 0.4), implementation=implementation, **SETTINGS
    )
    two = MaskedAdamW(
        eager.parameters(),
        _random_masks(list(eager.parameters()), 0.4),
        during_backward="step",
        implementation=implementation,
        **SETTINGS,
    )
    for _ in range(3):
        plain(data).square().mean().backward()
        eager(data).square().mean().backward()
        assert all(p.grad is None for p in eager.parameters())
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(plain.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_groups_have_their_own_settings_and_missing_gradients_their_own_steps(implementation):
    parameters = _parameters(shapes=[(50,), (50,), (50,)])
    masks = _random_masks(parameters, 0.5)
    groups = [{"params": parameters[:1], "lr": 1e-2}, {"params": parameters[1:], "weight_decay": 0.0}]
    optimizer = MaskedAdamW(groups, masks, implementation=implementation, **SETTINGS)
    truth = []
    for number, parameter in enumerate(parameters):
        options = {**SETTINGS, **({"lr": 1e-2} if number == 0 else {"weight_decay": 0.0})}
        truth.append(_Float64([parameter], masks, **options))
    for step in range(4):
        _gradients(parameters, step)
        skipped = {1} if step == 2 else set()
        for number in skipped:
            parameters[number].grad = None
        optimizer.step()
        for number, one in enumerate(truth):
            if number not in skipped:
                one.step()
    for parameter, one in zip(parameters, truth, strict=True):
        chosen = parameter.detach()[masks[parameter]].double()
        torch.testing.assert_close(chosen, one.twins[0].detach(), rtol=1e-5, atol=1e-6)


def test_state_holds_the_selected_elements_only():
    parameter = nn.Parameter(torch.zeros(100, dtype=torch.bfloat16))
    mask = torch.zeros(100, dtype=torch.bool)
    mask[::10] = True
    optimizer = MaskedAdamW([parameter], {parameter: BitMask.from_bool(mask)})
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    sizes = {key: value.numel() for key, value in optimizer.state[parameter].items() if torch.is_tensor(value)}
    assert sizes == {"exp_avg": 10, "exp_avg_sq": 10, "master": 10}
    assert optimizer.selected_elements == 10
    assert optimizer.selection(parameter) == BitMask.from_bool(mask)


def test_a_gradient_that_is_not_contiguous_is_read_in_element_order():
    parameter = nn.Parameter(torch.zeros(6, 4, device=DEVICE))
    mask = torch.zeros(6, 4, dtype=torch.bool, device=DEVICE)
    mask[1, 2] = mask[4, 0] = True
    optimizer = MaskedAdamW([parameter], {parameter: mask})
    parameter.grad = torch.arange(24.0, device=DEVICE).view(4, 6).t()
    optimizer.step()
    assert optimizer.state[parameter]["exp_avg"].tolist() == pytest.approx([1.3, 0.4])


def test_float64_parameters_are_moved_in_float64():
    parameter = nn.Parameter(torch.randn(50, dtype=torch.float64))
    mask = torch.rand(50) < 0.5
    optimizer, truth = (
        MaskedAdamW([parameter], {parameter: mask}, **SETTINGS),
        _Float64([parameter], {parameter: mask}, **SETTINGS),
    )
    for step in range(3):
        _gradients([parameter], step)
        optimizer.step()
        truth.step()
    torch.testing.assert_close(parameter.detach()[mask], truth.twins[0].detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"moments": "int8"}, {"masters": False}])
def test_saving_and_loading_in_the_middle_changes_nothing(dtype, options, tmp_path):
    straight, broken = _parameters(dtype), _parameters(dtype)
    one = MaskedAdamW(straight, _random_masks(straight, 0.5), **options, **SETTINGS)
    two = MaskedAdamW(broken, _random_masks(broken, 0.5), **options, **SETTINGS)
    for step in range(6):
        if step == 3:
            torch.save(two.state_dict(), tmp_path / "state.pt")
            two = MaskedAdamW(broken, _random_masks(broken, 0.5), **options, **SETTINGS)
            two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for parameters, optimizer in ((straight, one), (broken, two)):
            _gradients(parameters, step)
            optimizer.step()
    for a, b in zip(straight, broken, strict=True):
        for key, value in one.state[a].items():
            assert two.state[b][key] == value if isinstance(value, int) else torch.equal(two.state[b][key], value)
        assert torch.equal(a, b)


def test_a_state_made_with_another_mask_is_refused():
    parameter = nn.Parameter(torch.zeros(4))
    first = MaskedAdamW([parameter], {parameter: torch.tensor([True, False, True, False])})
    parameter.grad = torch.ones(4)
    first.step()
    second = MaskedAdamW([parameter], {parameter: torch.tensor([False, True, True, False])})
    with pytest.raises(ValueError, match="another mask"):
        second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_where_the_original_stood(duplicate):
    parameters = _parameters()
    optimizer = MaskedAdamW(parameters, _random_masks(parameters, 0.5), **SETTINGS)
    _gradients(parameters, 0)
    optimizer.step()
    twins, twin_optimizer = duplicate((parameters, optimizer))
    for these, one in ((parameters, optimizer), (twins, twin_optimizer)):
        _gradients(these, 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))


def test_schedulers_work():
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = MaskedAdamW([parameter], {parameter: torch.ones(3, dtype=torch.bool)}, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    for _ in range(2):
        parameter.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), -1.0))


def test_a_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.full((3,), 2.0))
    optimizer = MaskedAdamW([parameter], {parameter: torch.tensor([True, False, True])}, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 12.0
    assert parameter.tolist() == pytest.approx([1.9, 2.0, 1.9])


@pytest.mark.parametrize("implementation", ["reference", _able("triton")])
@pytest.mark.parametrize("density", [0.01, 0.4])
def test_the_operators_keep_their_contracts(implementation, density):
    parameters = [torch.randn(70, 30, device=DEVICE), torch.randn(2048, device=DEVICE)]
    masks = [BitMask.from_bool(torch.rand(p.shape, device=DEVICE) < density) for p in parameters]
    chosen = [Selection.of(mask, implementation, eight_bit=False) for mask in masks]
    gradients = [torch.randn_like(p) for p in parameters]
    words, positions = [s.words for s in chosen], [s.positions for s in chosen]
    layout = chosen[0].layout
    state = [torch.rand(mask.count, device=DEVICE) for mask in masks]
    hyper = torch.full((2, 9), 0.5, device=DEVICE)
    shrink = torch.ones((), device=DEVICE)
    torch.library.opcheck(
        masked_adamw_.default,
        (parameters, gradients, state, [s.clone() for s in state], [s.clone() for s in state], [], words, positions,
         hyper, shrink, [], False, layout, implementation),
    )  # fmt: skip
    torch.library.opcheck(selected_square_sum.default, (gradients, words, positions, False, layout, implementation))
    torch.library.opcheck(
        accumulate_selected_.default, (state[0], gradients[0], words[0], positions[0], layout, implementation)
    )


@pytest.mark.skipif(obstacle("triton", DEVICE) is not None, reason="Triton cannot run")
def test_a_bitmap_without_moments_in_eight_bits_is_refused():
    parameter = torch.zeros(2048, device=DEVICE)
    chosen = Selection.of(
        BitMask.from_bool(torch.ones(2048, dtype=torch.bool, device=DEVICE)), "triton", eight_bit=True
    )
    state = [[torch.zeros(2048, device=DEVICE)] for _ in range(3)]
    with pytest.raises(ValueError, match="eight bits"):
        masked_adamw_(
            [parameter], [parameter.clone()], *state[:2], [], [], [chosen.words], [chosen.positions],
            torch.ones(1, 9, device=DEVICE), torch.ones((), device=DEVICE), [], False, chosen.layout, "triton",
        )  # fmt: skip


def test_a_compiled_program_calls_the_step_without_a_graph_break():
    parameter, gradient = torch.zeros(2000), torch.ones(2000)
    chosen = Selection.of(BitMask.from_bool(torch.arange(2000) % 2 == 0), "reference", eight_bit=False)
    average, square = torch.zeros(1000), torch.zeros(1000)
    hyper = torch.tensor([[1.0, 1.0, 0.9, 0.1, 0.99, 0.01, 10.0, 100.0, 1e-8]])

    @torch.compile(fullgraph=True)
    def program(parameter):
        masked_adamw_(
            [parameter], [gradient * 2], [average], [square], [], [], [chosen.words], [chosen.positions], hyper,
            torch.ones(()), [], False, chosen.layout, "reference",
        )  # fmt: skip
        return parameter * 3

    result = program(parameter)
    torch.testing.assert_close(parameter, -(torch.arange(2000) % 2 == 0).float())
    torch.testing.assert_close(result, 3 * parameter)


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=0, max_size=3), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
@pytest.mark.skipif(obstacle("triton", DEVICE) is not None, reason="Triton cannot run")
def test_triton_equals_the_reference_on_any_shapes(shapes, density, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(shape, generator=generator) < density for shape in shapes]
    if not any(bool(mask.any()) for mask in masks):
        return
    results = []
    for implementation in ("reference", "triton"):
        parameters = _parameters(shapes=shapes)
        chosen = {p: mask.to(DEVICE) for p, mask in zip(parameters, masks, strict=True)}
        optimizer = MaskedAdamW(parameters, chosen, max_norm=1.0, implementation=implementation, **SETTINGS)
        for step in range(2):
            _gradients(parameters, step)
            optimizer.step()
        results.append(parameters)
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (torch.zeros(3, dtype=torch.bool), {}, "select no element"),
        (torch.ones(4, dtype=torch.bool), {}, "parameter's shape"),
        (torch.ones(3), {}, "bool"),
        (torch.ones(3, dtype=torch.bool), {"lr": -1.0}, "lr -1.0"),
        (torch.ones(3, dtype=torch.bool), {"max_norm": 0.0}, "max_norm"),
        (torch.ones(3, dtype=torch.bool), {"moments": "int4"}, "'int4'"),
        (torch.ones(3, dtype=torch.bool), {"during_backward": "later"}, "'later'"),
        (torch.ones(3, dtype=torch.bool), {"during_backward": "step", "max_norm": 1.0}, "during_backward='pack'"),
        (torch.ones(3, dtype=torch.bool), {"implementation": "fortran"}, "triton, compiled, reference"),
    ],
)
def test_wrong_arguments_say_what_is_right(mask, options, message):
    parameter = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=message):
        MaskedAdamW([parameter], {parameter: mask}, **options)


def test_what_cannot_be_stepped_is_refused_at_once():
    half = nn.Parameter(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(ValueError, match="bfloat16"):
        MaskedAdamW([half], {half: torch.ones(3, dtype=torch.bool)}, masters=False)
    strided = nn.Parameter(torch.zeros(3, 4).t())
    with pytest.raises(ValueError, match="contiguous"):
        MaskedAdamW([strided], {strided: torch.ones(4, 3, dtype=torch.bool)})
    lonely = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="none of the parameters has a mask"):
        MaskedAdamW([lonely], {})


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [{}, {"moments": "int8"}, {"during_backward": "pack"}])
def test_memory_that_nobody_initialised_is_never_read(implementation, options, request):
    results = []
    for poisoned in (False, True):
        if poisoned:
            request.getfixturevalue("poisoned_empty")
        parameters = _parameters()
        masks = _random_masks(parameters, 0.3)
        optimizer = MaskedAdamW(parameters, masks, max_norm=0.5, implementation=implementation, **options, **SETTINGS)
        for step in range(2):
            _gradients(parameters, step)
            optimizer.step()
        results.append(torch.cat([p.detach().view(-1) for p in parameters]))
    assert torch.equal(*results)
