"""Layers that are not trained are run once, and nothing else of a run changes by it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.model.features import SampleSet, teacher_features
from vkdsurgeon.model.frozen_layers import frozen_layers, kept_activations, output_of
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.teach import teach


def ready(root: Path, file: Path, depth: int) -> tuple[VisualStack, SampleSet, tuple[str, ...]]:
    stack = load_visual_stack(root, device="cpu")
    images = SampleSet(stack, samples_of(read_records(file, role="forget"), role="forget")[:4], 1 << 30)
    return stack, images, frozen_layers(stack, list(stack.late_parameters(depth)), ["projector"])


def shape_of(stack: VisualStack, images: SampleSet, frozen: tuple[str, ...]) -> tuple[int, ...]:
    output = output_of(stack, images, frozen[-1])
    assert output is not None
    return tuple(output.shape)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3_vl"])
def test_features_and_gradients_are_those_of_the_whole_tower(family: str, sets: dict[str, Path], tmp_path: Path):
    stack, images, frozen = ready(build_checkpoint(family, tmp_path / "model"), sets["forget"], 1)
    assert frozen == tuple(stack.taps)[:-1]
    store = teacher_features(stack, images, ("projector", frozen[-1]), 4, 1 << 30)
    kept = kept_activations(stack, images, frozen, shape_of(stack, images, frozen), store, ("projector",))
    assert kept is not None, "this family's layers can be passed over"

    calls: list[str] = []
    first = stack.model.get_submodule(stack.taps[frozen[0]])
    inner = next(module for module in first.modules() if isinstance(module, torch.nn.Linear))
    inner.register_forward_hook(lambda *call: calls.append("ran"))
    trained = stack.late_parameters(1)
    found = []
    for entering in (None, kept.entering):
        images.pass_over(entering)
        calls.clear()
        ((_, batch),) = images.batches(range(4), 4)
        features = stack.features(batch)["projector"]
        gradients = torch.autograd.grad(features.square().mean(), list(trained.values()), allow_unused=True)
        found.append([features.detach(), *(each for each in gradients if each is not None)])
        assert bool(calls) == (entering is None)
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)


def test_too_little_memory_is_no_sign_that_a_tower_differs(
    sets: dict[str, Path], llava: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that went on without its kept activations would take several times as long, and say nothing."""
    stack, images, frozen = ready(llava, sets["forget"], 1)
    store = teacher_features(stack, images, (*stack.outputs, frozen[-1]), 4, 1 << 30)
    shape = shape_of(stack, images, frozen)

    def full(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stack, "features", full)
    with pytest.raises(torch.OutOfMemoryError):
        kept_activations(stack, images, frozen, shape, store, stack.outputs)


def test_layers_that_feed_the_language_model_are_run(sets: dict[str, Path], tmp_path: Path):
    stack, images, frozen = ready(build_checkpoint("qwen3_vl", tmp_path / "model"), sets["forget"], 0)
    store = teacher_features(stack, images, (*stack.outputs, frozen[-1]), 4, 1 << 30)
    shape = shape_of(stack, images, frozen)
    assert kept_activations(stack, images, frozen, shape, store, stack.outputs) is None
    assert all("forward" not in module.__dict__ for module in stack.model.modules())


def test_nothing_before_a_trained_weight_or_a_watched_layer_is_frozen(llava: Path):
    stack = load_visual_stack(llava, device="cpu")
    names = list(stack.visual_parameters())
    embedding = next(name for name in names if "embed" in name)
    late = list(stack.late_parameters(1))
    assert frozen_layers(stack, late, ["projector"]) == ("layer.0",)
    assert frozen_layers(stack, late, ["layer.0", "projector"]) == ()
    assert frozen_layers(stack, [*late, embedding], ["projector"]) == ()
    assert frozen_layers(stack, names, ["projector"]) == ()


def test_outputs_that_memory_does_not_hold_are_not_kept(llava: Path, sets: dict[str, Path]):
    """Two runs that differ in room alone; nothing about the result but rounding follows from it."""
    stack, images, frozen = ready(llava, sets["forget"], 1)
    output = output_of(stack, images, frozen[-1])
    assert output is not None
    store = teacher_features(stack, images, (frozen[-1],), 4, 1 << 30)
    assert output.nbytes == store.one(frozen[-1], 0).nbytes

    outcomes = []
    for room in (8.0, 1e-5):
        # Sign steps of a simulated attacker would make much of rounding.
        recipe = Recipe(steps=3, depth=1, copies=0, extensions=0, cache_gib=room, tamper_weight=0.0)
        retain = samples_of(read_records(sets["retain"], role="retain"), role="retain")
        prepared = teach(prepare(Job(llava, images.samples, retain, [], recipe)))
        assert prepared.taught is not None
        ((_, batch), *_) = prepared.taught.terms.forget.samples.batches([0], 1)
        assert (batch.entering is not None) == (room == 8.0)
        outcomes.append(operate(prepared, unheard))
    for name, value in outcomes[0].changes.items():
        torch.testing.assert_close(value, outcomes[1].changes[name], rtol=1e-3, atol=1e-4)


def test_batches_whose_first_layers_are_passed_over_carry_no_pixels(llava: Path, sets: dict[str, Path]):
    stack, images, frozen = ready(llava, sets["forget"], 1)
    store = teacher_features(stack, images, ("projector", frozen[-1]), 4, 1 << 30)
    kept = kept_activations(stack, images, frozen, shape_of(stack, images, frozen), store, ("projector",))
    assert kept is not None
    images.pass_over(kept.entering)
    ((part, batch),) = images.batches([3, 1], 4)
    assert all(bool((value == 1).all()) for value in batch.inputs.values() if value.is_floating_point())
    torch.testing.assert_close(stack.features(batch)["projector"], store.get("projector", part, stack.device))
    images.pass_over(None)
    ((_, batch),) = images.batches([3, 1], 4)
    assert batch.inputs["pixel_values"].std() > 0
    torch.testing.assert_close(stack.features(batch)["projector"], store.get("projector", part, stack.device))


@pytest.mark.parametrize("name", ["image_attention_mask", "flattened_patches"])
def test_numbers_that_are_not_only_pixels_stay(name: str, llava: Path, sets: dict[str, Path]):
    """Masks that are no integers, and patches that say themselves which of them are padding."""
    stack, images, frozen = ready(llava, sets["forget"], 1)
    store = teacher_features(stack, images, ("projector", frozen[-1]), 4, 1 << 30)
    kept = kept_activations(stack, images, frozen, shape_of(stack, images, frozen), store, ("projector",))
    assert kept is not None
    ((_, plain),) = images.batches([3, 1], 4)
    if name == "flattened_patches":
        stack._look = SimpleNamespace(pixels=name, collate=stack._look.collate)
        renamed = {name: plain.inputs["pixel_values"]}
    else:
        renamed = {**plain.inputs, name: torch.rand(2, 3)}
    assert stack.looks_once(plain) == (name != "flattened_patches")
    assert not stack.looks_once(ImageBatch(renamed, 2))


def test_a_tower_that_looks_at_pixels_again_is_run_whole(llava: Path, sets: dict[str, Path]):
    """As one does that masks padding by where pixels are zero."""
    stack, images, frozen = ready(llava, sets["forget"], 1)
    features = stack.features
    stack.features = lambda batch, layers=("projector",): {  # type: ignore[method-assign]
        name: value * batch.inputs["pixel_values"].mean() for name, value in features(batch, layers).items()
    }
    store = teacher_features(stack, images, ("projector", frozen[-1]), 4, 1 << 30)
    shape = shape_of(stack, images, frozen)
    assert kept_activations(stack, images, frozen, shape, store, ("projector",)) is None
