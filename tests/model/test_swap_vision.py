"""The language model really sees with the vision it is given, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM

from tests.conftest import draw_subject
from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.model.decoder_layers import check_loaded, find_decoder_weights
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.swap_vision import METHOD, with_vision_of
from vkdsurgeon.model.vision import VisualStack


def load(root: Path) -> Any:
    return AutoModelForMultimodalLM.from_pretrained(root, dtype=torch.float32).eval()


def inputs_of(stack: VisualStack, model: Any) -> dict[str, torch.Tensor]:
    """A prompt with as many marks as the image has feature rows."""
    image = stack.prepare(draw_subject(0, 0, 56))
    rows = stack.features(stack.collate([image]))["projector"].shape[1]
    mark = getattr(model.config, "image_token_id", None) or model.config.image_token_index
    ids = torch.tensor([[5, *[mark] * rows, 7, 8, 9]])
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        tokens["mm_token_type_ids"] = (ids == mark).int()
    if model.config.model_type in ("paligemma", "gemma3"):
        tokens["token_type_ids"] = (ids == mark).int()
    return {**tokens, **image.inputs}


@pytest.mark.parametrize("family", FAMILIES)
def test_own_eyes_change_nothing_and_anothers_change_only_vision(family: str, tmp_path: Path) -> None:
    mine, theirs = (build_checkpoint(family, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    model, other = load(mine), load(theirs)
    stack, their_stack = load_visual_stack(mine, device="cpu"), load_visual_stack(theirs, device="cpu")
    inputs = inputs_of(stack, model)
    with torch.no_grad():
        plain = model(**inputs, use_cache=False).logits
        with with_vision_of(model, stack.model):
            own = model(**inputs, use_cache=False).logits
        with with_vision_of(model, their_stack.model):
            seen = model(**inputs, use_cache=False).logits
        # The whole truth: the other model's visual weights in this one's place.
        parameters = dict(model.named_parameters())
        for name in stack.visual_parameters():
            parameters[name].copy_(dict(other.named_parameters())[name])
        transplanted = model(**inputs, use_cache=False).logits
    assert torch.equal(plain, own)
    assert torch.equal(seen, transplanted)
    assert not torch.equal(seen, plain)
    assert all(METHOD not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_eyes_can_be_blended_at_every_depth(family: str, tmp_path: Path) -> None:
    mine, theirs = (build_checkpoint(family, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    model = load(mine)
    stack, their_stack = load_visual_stack(mine, device="cpu"), load_visual_stack(theirs, device="cpu")
    inputs = inputs_of(stack, model)
    with torch.no_grad():
        plain = model(**inputs, use_cache=False).logits
        with with_vision_of(model, their_stack.model):
            seen = model(**inputs, use_cache=False).logits
        for share, expected in ((0.0, seen), (1.0, plain)):
            with with_vision_of(model, their_stack.model, lambda a, b, share=share: torch.lerp(a, b, share)):
                torch.testing.assert_close(model(**inputs, use_cache=False).logits, expected)
        with with_vision_of(model, their_stack.model, lambda a, b: torch.lerp(a, b, 0.5)):
            between = model(**inputs, use_cache=False).logits
    assert not torch.equal(between, seen)
    assert not torch.equal(between, plain)


def test_the_borrowed_method_is_given_back_when_the_block_fails(llava: Path) -> None:
    model = load(llava)
    stack = load_visual_stack(llava, device="cpu")
    with pytest.raises(RuntimeError, match="boom"), with_vision_of(model, stack.model):
        raise RuntimeError("boom")
    assert all(METHOD not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_matrices_of_decoder_layers_are_eligible(family: str, tmp_path: Path) -> None:
    root = build_checkpoint(family, tmp_path, shards=2)
    stack, model = load_visual_stack(root, device="cpu"), load(root)
    weights = find_decoder_weights(stack.inventory, stack.split, "all")
    assert len(weights.layers) == 2
    assert weights.on_disk
    assert set(weights.on_disk.values()) <= set(stack.split.language)
    parameters = dict(model.named_parameters())
    for name in weights.on_disk:
        assert parameters[name].ndim == 2
        assert not any(part in name for part in ("embed", "norm", "lm_head"))
    check_loaded(model, stack.inventory, weights.on_disk)
    halves = [find_decoder_weights(stack.inventory, stack.split, kind).on_disk for kind in ("attention", "mlp")]
    assert halves[0].keys() | halves[1].keys() == weights.on_disk.keys()
    assert not halves[0].keys() & halves[1].keys()
