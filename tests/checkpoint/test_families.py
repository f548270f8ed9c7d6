"""Per family: the visual half alone computes what the whole model computes, and surgery touches what it selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tests.checkpoint.conftest import files_of, random_image
from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack


def reference(root: Path, batch: ImageBatch) -> torch.Tensor:
    """What the whole model makes of the batch: [B, N, D]."""
    model = AutoModelForMultimodalLM.from_pretrained(root, dtype=torch.float32).eval()
    with torch.no_grad():
        output: Any = model.get_image_features(**batch.inputs, return_dict=True).pooler_output
    rows = torch.cat(list(output)) if isinstance(output, (list, tuple)) else output
    return rows.reshape(batch.size, -1, rows.shape[-1])


def batch_of(stack: VisualStack, count: int = 2) -> ImageBatch:
    return stack.collate([stack.prepare(random_image(seed)) for seed in range(count)])


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_whole_model(pristine: dict[str, Path], family: str) -> None:
    stack = load_visual_stack(pristine[family], device="cpu")
    batch = batch_of(stack)
    with torch.no_grad():
        features = stack.features(batch, stack.layers)
    assert torch.equal(features["projector"], reference(pristine[family], batch))
    assert all(value.ndim == 3 and value.shape[0] == 2 for value in features.values())
    assert all(p.is_meta for n, p in stack.model.named_parameters() if n in stack.split.placement.language_parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_a_batch_do_not_mix(pristine: dict[str, Path], family: str) -> None:
    stack = load_visual_stack(pristine[family], device="cpu")
    images = [stack.prepare(random_image(seed)) for seed in range(3)]
    with torch.no_grad():
        together = stack.features(stack.collate(images), stack.layers)
        for index, image in enumerate(images):
            alone = stack.features(stack.collate([image]), stack.layers)
            for layer in stack.layers:
                torch.testing.assert_close(together[layer][index], alone[layer][0], atol=2e-5, rtol=1e-4)
                assert not torch.allclose(together[layer][index], together[layer][index - 1], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_listed_layer_has_a_say(pristine: dict[str, Path], family: str) -> None:
    stack = load_visual_stack(pristine[family], device="cpu")
    features = stack.features(batch_of(stack, 1), stack.layers)
    taps = [features[layer] for layer in stack.layers if layer not in stack.outputs]
    gradients = torch.autograd.grad(features["projector"].square().sum(), list(stack.visual_parameters().values()),
                                    allow_unused=True)  # fmt: skip
    reached = {name for name, g in zip(stack.visual_parameters(), gradients, strict=True) if g is not None and g.any()}
    for index in range(len(taps)):
        path = stack.taps[f"layer.{index}"]
        assert any(name.startswith(path + ".") for name in reached), path
    if family in ("llava", "llava_next"):
        assert len(taps) == 2, "the last layer comes after the features that LLaVA takes"
    else:
        assert len(taps) == (2 if family == "qwen2_vl" else 3)
    assert stack.outputs == (("deepstack.0", "deepstack.1", "projector") if family == "qwen3_vl" else ("projector",))


@pytest.mark.parametrize("family", FAMILIES)
def test_surgery_changes_what_it_selects_and_nothing_else(tmp_path: Path, family: str) -> None:
    root = build_checkpoint(family, tmp_path / "base", dtype=torch.bfloat16, shards=3)
    before = files_of(root)
    stack = load_visual_stack(root, device="cpu")
    batch = batch_of(stack)
    generator = torch.Generator().manual_seed(1)
    expected: dict[str, torch.Tensor] = {}
    masks = {}
    for name, value in stack.visual_parameters().items():
        masks[name] = torch.rand(value.shape, generator=generator) < 0.1
        value.data[masks[name]] = (value.data[masks[name]] * 1.5 + 0.25).bfloat16().float()
        expected[name] = value.detach().clone()
    report = write_patched(stack.inventory, stack.to_disk(expected), tmp_path / "out")

    assert files_of(root) == before
    selected = sum(int(mask.sum()) for mask in masks.values())
    assert report.elements_changed == selected
    assert report.bytes_changed == 2 * selected
    difference = diff_checkpoints(root, tmp_path / "out")
    assert difference.elements_changed == selected
    assert difference.language_identical is True
    assert difference.headers_identical

    # Byte by byte, without our own reader: each differing byte lies in a selected element.
    inventory = take_inventory(root)
    homes = {home: name for name, home in stack.split.targets.items()}
    after = files_of(tmp_path / "out")
    allowed = {path: torch.zeros(len(content), dtype=torch.bool) for path, content in before.items()}
    for name, mask in masks.items():
        entry = inventory.tensors[homes[name]]
        allowed[entry.file][entry.begin : entry.end] = mask.reshape(-1).repeat_interleave(2)
    assert after.keys() == before.keys()
    for path, content in before.items():
        ours, theirs = (torch.frombuffer(bytearray(raw), dtype=torch.uint8) for raw in (content, after[path]))
        assert not ((ours != theirs) & ~allowed[path]).any(), path

    with torch.no_grad():
        features = stack.features(batch)["projector"]
    assert torch.equal(features, reference(tmp_path / "out", batch))
    assert not torch.equal(features, reference(root, batch))


def test_tiles_are_cut_as_the_full_processor_does(pristine: dict[str, Path]) -> None:
    # InternVL's image processor cuts no tiles unless its full processor asks it to, which is what happens in use.
    stack = load_visual_stack(pristine["internvl"], device="cpu")
    alone = AutoImageProcessor.from_pretrained(pristine["internvl"])(images=[random_image()], return_tensors="pt")
    assert alone["pixel_values"].shape[0] == 1
    assert stack.prepare(random_image()).inputs["pixel_values"].shape[0] > 1


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "idefics3"])
def test_signatures_tell_sizes_apart(pristine: dict[str, Path], family: str) -> None:
    stack = load_visual_stack(pristine[family], device="cpu")
    wide, wider, square = (stack.prepare(random_image(size=size)) for size in ((90, 60), (90, 60), (30, 180)))
    assert wide.signature == wider.signature
    assert hash(wide.signature) == hash(wider.signature)
    assert wide.signature != square.signature
    with pytest.raises(ValueError, match="signatures"):
        stack.collate([wide, square])
    with pytest.raises(ValueError, match="empty"):
        stack.collate([])
