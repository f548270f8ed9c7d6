"""Saliency: the mask of the top quarter of all scores against torch's ways to a threshold, and one accumulation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from vkdsurgeon_kernels import accumulate_scores, select_top_fraction

from benchmarks.kernels.harness import Case, Provider

FRACTION = 0.25
SCORES = {"tiny": 5000, "full": 100_000_000}
GRADIENTS = {"tiny": 5000, "cpu": 20_000_000, "cuda": 300_000_000}
# The threshold has to be known before the first bit of the mask: two reads, and a bit written.
SELECTION_BYTES = 2 * 4 + 1 / 8
ROTATED = 2


def _ours(scores: list[Tensor], count: int) -> Provider:
    def verify() -> None:
        flags = torch.cat([mask.to_bool().view(-1) for mask in select_top_fraction(scores, FRACTION)])
        flat = torch.cat([score.view(-1) for score in scores])
        threshold = flat[flags].min()
        assert int(flags.sum()) == count, "a wrong density"
        assert float(flat[~flags].max()) <= float(threshold), "a larger score was passed over"
        tied = (flat == threshold).nonzero().view(-1)
        assert bool((flags[tied].int().diff() <= 0).all()), "a later one of two equal scores was preferred"

    return Provider(lambda _: select_top_fraction(scores, FRACTION), verify)


def _threshold(scores: list[Tensor], count: int, find: Callable[[Tensor], Tensor]) -> Provider:
    """A way to the threshold; it leaves out the mask, and the copy of several tensors into one."""
    flat = torch.cat([score.view(-1) for score in scores])

    def verify() -> None:
        threshold = find(flat)
        assert int((flat > threshold).sum()) < count <= int((flat >= threshold).sum()), "not the threshold"

    return Provider(lambda _: find(flat), verify)


@pytest.mark.parametrize("tensors", [1, 24])
def test_selection(compare, device: torch.device, size: str, tensors: int):
    total = SCORES[size]
    generator = torch.Generator(device).manual_seed(tensors)
    scores = [torch.randn(total // tensors, generator=generator, device=device).square_() for _ in range(tensors)]
    total = sum(score.numel() for score in scores)
    count = round(FRACTION * total)
    providers = {
        "ours": _ours(scores, count),
        "torch.kthvalue": _threshold(scores, count, lambda flat: flat.kthvalue(total - count + 1).values),
        "torch.topk": _threshold(scores, count, lambda flat: flat.topk(count, sorted=False).values.min()),
    }
    if device.type == "cuda" or size == "tiny":
        providers["torch.sort"] = _threshold(scores, count, lambda flat: flat.sort(descending=True).values[count - 1])
    required = {"torch.kthvalue": 4.0} if device.type == "cpu" else {}
    name = f"top {FRACTION:.0%} of {total:,} scores in {tensors} tensor{'s' if tensors > 1 else ''}"
    compare(Case("saliency", name, [total, tensors], torch.float32, SELECTION_BYTES * total, required), providers)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_accumulation(compare, device: torch.device, size: str, dtype: torch.dtype, squared: bool):
    elements = GRADIENTS["tiny" if size == "tiny" else device.type]
    generator = torch.Generator(device).manual_seed(0)
    gradients = [torch.randn(elements, generator=generator, device=device).to(dtype) for _ in range(ROTATED)]
    start = torch.rand(elements, generator=generator, device=device)

    def eager(score: Tensor, gradient: Tensor) -> None:
        wide = gradient.float()
        score.add_(wide.square() if squared else wide.abs())

    def ours(score: Tensor, gradient: Tensor) -> None:
        accumulate_scores(score, gradient, squared=squared)

    def provider(accumulate: Callable[[Tensor, Tensor], None]) -> Provider:
        score = start.clone()

        def verify() -> None:
            accumulate(score, gradients[0])
            wide = gradients[0].double()
            truth = start.double() + (wide.square() if squared else wide.abs())
            assert bool(((score.double() - truth).abs() <= 2**-23 * truth).all()), "not the float32 sum"

        return Provider(lambda number: accumulate(score, gradients[number % ROTATED]), verify)

    case = Case(
        "saliency",
        f"accumulate {'g²' if squared else '|g|'}, {str(dtype).removeprefix('torch.')}",
        [elements],
        dtype,
        (8 + dtype.itemsize) * elements,
    )
    compare(case, {"ours": provider(ours), "eager": provider(eager)})
