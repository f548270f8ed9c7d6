"""The layer and the distance of its output in one, against float64 autograd of both."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vkdsurgeon_kernels import DISTANCES, fused_linear_distillation, target_power
from vkdsurgeon_kernels.backend import compile_obstacle
from vkdsurgeon_kernels.distillation import fused_linear
from vkdsurgeon_kernels.distillation.formula import distillation_loss

BATCH, TOKENS, INNER, WIDTH = 5, 7, 12, 24
SUM = {"nmse": 1.0, "cosine": 0.5}
UPSTREAM = -1.75

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Two samples to a chunk, and one in the last."""
    monkeypatch.setattr(fused_linear, "_CHUNK_TOKENS", {"cpu": 2 * TOKENS})


def _inputs(dtype=torch.float32, bias=True, masked=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    layer = [draw(BATCH, TOKENS, INNER), draw(WIDTH, INNER) / 4, draw(WIDTH) if bias else None]
    mask = draw(BATCH, TOKENS) < 0.5 if masked else None
    layer = [None if value is None else value.to(dtype) for value in layer]
    return layer, draw(BATCH, TOKENS, WIDTH).to(dtype), torch.linspace(1, -0.5, BATCH), mask


def _autograd(layer, target, weights, mask, terms, dtype):
    layer = [None if value is None else value.to(dtype, copy=True).requires_grad_() for value in layer]
    output = torch.nn.functional.linear(*layer)
    loss = distillation_loss([output], [target.to(dtype)], [terms], None, weights, [mask]).sum()
    (UPSTREAM * loss).backward()
    return [loss.detach(), *(value.grad for value in layer if value is not None)]


def _fused(layer, target, weights, mask, terms, **options):
    layer = [None if value is None else value.clone().requires_grad_() for value in layer]
    loss = fused_linear_distillation(*layer, target, distance=terms, sample_weights=weights, token_mask=mask, **options)
    (UPSTREAM * loss).backward()
    return [loss.detach(), *(value.grad for value in layer if value is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("terms", [{name: 1.0} for name in DISTANCES] + [SUM], ids=[*DISTANCES, "sum"])
def test_loss_and_gradients_match_float64(dtype, bias, masked, terms):
    case = _inputs(dtype, bias, masked)
    truth = _autograd(*case, terms, torch.float64)
    plain = _autograd(*case, terms, dtype)
    for found, exact, usual in zip(_fused(*case, terms), truth, plain, strict=True):
        scale = exact.abs().max()
        error, usual_error = ((value.double() - exact).abs().max() for value in (found, usual))
        assert error <= 3 * usual_error + 2 * torch.finfo(dtype).eps * scale


def test_what_a_masked_token_holds_never_matters():
    layer, target, weights, mask = _inputs(masked=True)
    clean = _fused(layer, target, weights, mask, SUM)
    layer[0][~mask], target[~mask] = float("nan"), float("inf")
    dirty = _fused(layer, target, weights, mask, SUM)
    assert all(torch.equal(before, after) for before, after in zip(clean, dirty, strict=True))
    assert not dirty[1][~mask].any()


def test_a_given_target_power_changes_nothing():
    layer, target, weights, mask = _inputs(masked=True)
    given = _fused(layer, target, weights, mask, SUM, target_power=target_power(target, mask))
    torch.testing.assert_close(given, _fused(layer, target, weights, mask, SUM))


@pytest.mark.parametrize("moving", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_moves_gets_a_gradient(moving):
    layer, target, weights, mask = _inputs()
    complete = _fused(layer, target, weights, mask, SUM)[1:]
    layer = [value.requires_grad_(asked) for value, asked in zip(layer, moving, strict=True)]
    loss = fused_linear_distillation(*layer, target, distance=SUM, sample_weights=weights)
    (UPSTREAM * loss).backward()
    for value, asked, expected in zip(layer, moving, complete, strict=True):
        assert torch.equal(value.grad, expected) if asked else value.grad is None


def test_without_gradients_the_loss_is_the_same():
    layer, target, weights, mask = _inputs(masked=True)
    silent = fused_linear_distillation(*layer, target, distance=SUM, sample_weights=weights, token_mask=mask)
    assert not silent.requires_grad
    torch.testing.assert_close(silent, _fused(layer, target, weights, mask, SUM)[0])


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_output_is_never_stored_as_a_whole():
    layer, target, weights, _ = _inputs()
    with _Largest() as largest:
        fused_linear._fused(*layer, target, None, weights, None, [1.0, 0.0, 0.0, 0.0], [True] * 3, "reference")
    assert largest.elements == max(2 * TOKENS * WIDTH, layer[0].numel())


def test_backward_twice_through_a_kept_graph():
    layer, target, weights, _ = _inputs()
    layer = [value.requires_grad_() for value in layer]
    loss = fused_linear_distillation(*layer, target, sample_weights=weights)
    first = torch.autograd.grad(3 * loss, layer, retain_graph=True)
    second = torch.autograd.grad(loss, layer)
    for tripled, single in zip(first, second, strict=True):
        torch.testing.assert_close(tripled, 3 * single)


def test_second_derivatives_are_refused():
    layer, target, _, _ = _inputs()
    loss = fused_linear_distillation(layer[0].requires_grad_(), *layer[1:], target)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(loss, layer[0], create_graph=True)


def test_autocast_changes_nothing():
    features, weight = torch.randn(2, 30, 40, requires_grad=True), torch.randn(24, 40, requires_grad=True)
    target, found = torch.randn(2, 30, 24), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = fused_linear_distillation(features, weight, None, target)
        found.append((loss, *torch.autograd.grad(loss, (features, weight))))
    assert all(torch.equal(plain, within) for plain, within in zip(*found, strict=True))


def test_empty_batch():
    weight = torch.randn(4, 3, requires_grad=True)
    loss = fused_linear_distillation(torch.zeros(0, 5, 3), weight, None, torch.zeros(0, 5, 4))
    loss.backward()
    assert loss == 0
    assert not weight.grad.any()


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_operator_is_registered_soundly(masked):
    layer, target, weights, mask = _inputs(masked=masked)
    layer = [value.requires_grad_() for value in layer]
    torch.library.opcheck(
        torch.ops.vkdsurgeon.fused_linear_distillation,
        (*layer, target, mask, weights, None, [1.0, 0.0, 1.0, 0.0], [True, True, True], "auto"),
    )


@pytest.mark.skipif(compile_obstacle("cpu") is not None, reason="torch.compile cannot run")
def test_a_compiled_program_contains_it_whole():
    layer, target, weights, mask = _inputs(masked=True)

    def loss(features, weight, bias):
        return UPSTREAM * fused_linear_distillation(
            2 * features, weight, bias, target, distance=SUM, sample_weights=weights, token_mask=mask
        )

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        inputs = [value.clone().requires_grad_() for value in layer]
        value = function(*inputs)
        value.backward()
        results.append([value.detach(), *(tensor.grad for tensor in inputs)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4, 9)}, r"\[D, K\]"),
        ({"bias": torch.zeros(3)}, r"\[D\] = \(4,\)"),
        ({"bias": torch.zeros(4, dtype=torch.float16)}, "convert one"),
        ({"target": torch.zeros(2, 3, 5)}, "must both be"),
        ({"target": torch.zeros(2, 3, 4, requires_grad=True)}, "detach"),
        ({"sample_weights": torch.ones(3)}, r"\[B\] = \[2\]"),
        ({"token_mask": torch.ones(2, 3)}, "bool"),
        ({"distance": "manhattan"}, "nmse, mse, cosine"),
        ({"implementation": "fortran"}, "compiled, reference"),
    ],
)
def test_wrong_arguments_say_what_is_right(change, message):
    good = {
        "features": torch.zeros(2, 3, 6), "weight": torch.zeros(4, 6), "bias": None, "target": torch.zeros(2, 3, 4),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        fused_linear_distillation(**{**good, **change})
