"""Mixed precision: the features of float32 but for rounding, and only where it is faster and works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import draw_subject
from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.errors import UserError
from vkdsurgeon.model import precision
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.precision import choose_precision, is_faster, resolve_precision
from vkdsurgeon.model.vision import VisualStack


def batch_of(stack: VisualStack) -> ImageBatch:
    image: Image.Image = draw_subject(0, 0, 64)
    return stack.collate([stack.prepare(image)])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_features_and_gradients_are_those_of_float32_but_for_rounding(family: str, tmp_path: Path) -> None:
    stack = load_visual_stack(build_checkpoint(family, tmp_path / family), device="cpu")
    batch = batch_of(stack)
    found = {}
    for mixed in (False, True):
        stack.mixed = mixed
        features = stack.features(batch, stack.outputs)
        sum(values.float().square().mean() for values in features.values()).backward()  # type: ignore[union-attr]
        gradients = [value.grad for value in stack.visual_parameters().values() if value.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found[mixed] = (
            torch.cat([values.float().reshape(-1) for values in features.values()]).detach(),
            torch.cat([gradient.reshape(-1) for gradient in gradients]),
        )
        stack.zero_grad(set_to_none=True)
    assert stack.precision == "mixed"
    for plain, rounded in zip(found[False], found[True], strict=True):
        assert not torch.equal(plain, rounded)
        assert float((plain - rounded).norm() / plain.norm()) < 0.05


def test_a_tower_is_mixed_where_that_is_faster(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = load_visual_stack(llava, device="cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert not is_faster(stack), "a tower this small"
    monkeypatch.setattr(precision, "_LEAST_WEIGHTS", 1)
    assert is_faster(stack)
    choose_precision(stack, batch_of(stack))
    assert stack.mixed
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert not is_faster(stack), "a processor without products in bfloat16"


@pytest.mark.parametrize("fault", ["raises", "nan", "other features"])
def test_it_stays_off_where_the_tower_cannot(llava: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    stack = load_visual_stack(llava, device="cpu")
    monkeypatch.setattr(precision, "is_faster", lambda stack: True)
    plain = stack.features

    def features(*given: Any) -> dict[str, torch.Tensor]:
        values = plain(*given)
        if not stack.mixed:
            return values
        if fault == "raises":
            raise RuntimeError("expected scalar type Float but found BFloat16")
        return {name: value * (float("nan") if fault == "nan" else 1.2) for name, value in values.items()}

    monkeypatch.setattr(stack, "features", features)
    choose_precision(stack, batch_of(stack))
    assert not stack.mixed
    assert stack.precision == "float32"


def test_an_unknown_precision_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"(?s)float16.*float32, bfloat16, mixed, auto"):
        resolve_precision("float16")
