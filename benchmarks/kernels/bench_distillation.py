"""Feature distillation, loss and gradient: ours, the formula in eager PyTorch, and the formula compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from vkdsurgeon_kernels import feature_distillation, target_power
from vkdsurgeon_kernels.distillation.formula import distillation_loss

from benchmarks.kernels.harness import Case, Provider

ROTATED = 3
REQUIRED = {"cpu": {"eager": 6.0, "compiled naive": 1.2}, "cuda": {"eager": 5.0, "compiled naive": 1.3}}
TINY = [(2, 9, 16)] * 2
SUM = {"nmse": 1.0, "cosine": 1.0}
# On a GPU the 48 images of a step.
SIZES = {"cpu": [(4, 577, 1024)] * 4, "cuda": [(48, 577, 1024)] * 4}
# Shapes, distance, dtype, whether the targets' power is known, whether the ratios of the issue are required.
CASES: dict[str, list[tuple[str, list[tuple[int, int, int]], Mapping[str, float], torch.dtype, bool, bool]]] = {
    device: [
        ("nmse, 4 layers", sizes, {"nmse": 1.0}, torch.float32, False, True),
        ("nmse, 4 layers", sizes, {"nmse": 1.0}, torch.bfloat16, False, True),
        ("nmse, 4 layers, target power known", sizes, {"nmse": 1.0}, torch.float32, True, True),
        ("nmse, 4 layers, target power known", sizes, {"nmse": 1.0}, torch.bfloat16, True, True),
        ("cosine, 4 layers", sizes, {"cosine": 1.0}, torch.bfloat16, False, False),
        ("nmse + cosine, 4 layers", sizes, SUM, torch.bfloat16, False, False),
        ("nmse, 1 layer", [(8, 256, 768)], {"nmse": 1.0}, torch.bfloat16, False, False),
    ]
    for device, sizes in SIZES.items()
}


@dataclass
class Work:
    """One set of inputs; the students collect gradients."""

    students: list[Tensor]
    targets: list[Tensor]
    powers: list[Tensor] | None


Loss = Callable[[Work], Tensor]


def _ours(terms: Mapping[str, float], work: Work) -> Tensor:
    # Left to itself it would not compile for a call as small as the smallest case.
    chosen = "compiled" if work.students[0].device.type == "cpu" else "auto"
    return feature_distillation(
        work.students, work.targets, distance=terms, target_power=work.powers, implementation=chosen
    )


def _formula(terms: Mapping[str, float], work: Work) -> Tensor:
    return distillation_loss(work.students, work.targets, [terms] * len(work.students))


def _provider(loss: Loss, works: list[Work], terms: Mapping[str, float]) -> Provider:
    def run(number: int) -> list[Tensor | None]:
        work = works[number % len(works)]
        for student in work.students:
            student.grad = None
        loss(work).sum().backward()
        return [student.grad for student in work.students]

    def verify() -> None:
        work = works[0]
        exact = [student.detach().double().requires_grad_() for student in work.students]
        truth = distillation_loss(exact, [target.double() for target in work.targets], [terms] * len(exact))
        truth.sum().backward()
        # The compiler sums a whole sample of the naive formula into few accumulators, which loses digits.
        torch.testing.assert_close(loss(work).detach().double(), truth.detach(), rtol=1e-4, atol=1e-6)
        precision = torch.finfo(work.students[0].dtype).eps
        for found, student in zip(run(0), exact, strict=True):
            floor = max(1e-6, precision) * float(student.grad.abs().max())
            torch.testing.assert_close(found.double(), student.grad, rtol=2 * precision, atol=floor)

    return Provider(run, verify)


@pytest.mark.parametrize("number", range(7))
def test_loss_and_gradient(compare, device: torch.device, size: str, number: int):
    name, shapes, terms, dtype, known, judged = CASES[device.type][number]
    shapes = TINY if size == "tiny" else shapes
    generator = torch.Generator(device).manual_seed(number)

    def draw() -> list[Tensor]:
        return [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]

    works = []
    for _ in range(ROTATED):
        students, targets = [student.requires_grad_() for student in draw()], draw()
        works.append(Work(students, targets, [target_power(target) for target in targets] if known else None))
    torch.compiler.reset()
    naive = partial(_formula, terms)
    losses: dict[str, Loss] = {
        "ours": partial(_ours, terms),
        "eager": naive,
        "compiled naive": torch.compile(naive, dynamic=False),
    }
    elements = sum(batch * tokens * width for batch, tokens, width in shapes)
    case = Case(
        "distillation", f"{name}, {str(dtype).removeprefix('torch.')}", [list(shape) for shape in shapes], dtype,
        3 * dtype.itemsize * elements, REQUIRED[device.type] if judged else {},
    )  # fmt: skip
    compare(case, {name: _provider(loss, works, terms) for name, loss in losses.items()})
