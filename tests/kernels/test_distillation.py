"""Feature distillation against the float64 formula."""

import pytest
import torch
from vkdsurgeon_kernels import DISTANCES, feature_distillation
from vkdsurgeon_kernels.backend import compile_obstacle

IMPLEMENTATIONS = [
    "reference",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(compile_obstacle("cpu") is not None, reason="torch.compile cannot run")
    ),
]


def _case(batch: int, tokens: int, width: int, dtype: torch.dtype, masked: bool):
    generator = torch.Generator().manual_seed(batch * 1000 + tokens * 10 + width)
    student = torch.randn(batch, tokens, width, generator=generator).to(dtype)
    target = (torch.randn(batch, tokens, width, generator=generator) * 1.7).to(dtype)
    mask = None
    if masked:
        mask = torch.rand(batch, tokens, generator=generator) < 0.6
        mask[:, 0] = True
    upstream = torch.linspace(-1.5, 2.0, batch)
    return student, target, mask, upstream


def _run(student, target, mask, upstream, **options):
    student = student.detach().clone().requires_grad_()
    loss = feature_distillation(student, target, token_mask=mask, **options)
    loss.backward(upstream.to(loss.dtype))
    return loss.detach(), student.grad


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("batch", "tokens", "width"), [(3, 63, 100), (1, 7, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradient_match_float64(implementation, distance, batch, tokens, width, masked):
    student, target, mask, upstream = _case(batch, tokens, width, torch.float32, masked)
    truth, truth_grad = _run(student.double(), target.double(), mask, upstream, distance=distance)
    loss, grad = _run(student, target, mask, upstream, distance=distance, implementation=implementation)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(grad.double(), truth_grad, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_is_computed_in_float32(implementation):
    student, target, mask, upstream = _case(2, 36, 64, torch.bfloat16, False)
    truth, truth_grad = _run(student.double(), target.double(), mask, upstream)
    loss, grad = _run(student, target, mask, upstream, implementation=implementation)
    torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=1e-6)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.double(), truth_grad, rtol=1e-2, atol=1e-6)


def test_a_masked_token_never_matters():
    student, target, mask, upstream = _case(2, 9, 8, torch.float32, True)
    poisoned = target.clone()
    poisoned[~mask] = 1e6
    clean, clean_grad = _run(student, target, mask, upstream, distance="mse")
    loss, grad = _run(student, poisoned, mask, upstream, distance="mse")
    assert torch.equal(clean, loss)
    assert torch.equal(clean_grad[mask], grad[mask])
    assert not grad[~mask].any()


def test_nmse_is_scale_free():
    student, target, _, _ = _case(2, 9, 8, torch.float32, False)
    small = feature_distillation(student, target)
    large = feature_distillation(student * 64, target * 64)
    torch.testing.assert_close(small, large)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "manhattan"}, "nmse, mse, cosine"),
        ({"target": torch.zeros(2, 3, 5)}, "must both be"),
        ({"target": torch.zeros(2, 3, 4, requires_grad=True)}, "detach"),
        ({"token_mask": torch.ones(2, 4, dtype=torch.bool)}, r"\[B, N\]"),
        ({"implementation": "fortran"}, "compiled, reference"),
    ],
)
def test_wrong_arguments_say_what_is_right(change, message):
    arguments = {"student": torch.zeros(2, 3, 4), "target": torch.zeros(2, 3, 4), **change}
    with pytest.raises(ValueError, match=message):
        feature_distillation(**arguments)
