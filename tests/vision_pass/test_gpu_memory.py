"""A run fits itself to the memory of a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.families import build_checkpoint
from tests.vision_pass.test_replay import sized
from tests.vision_pass.test_run import QUICK, samples
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.vision_pass import prepare as preparing
from vkdsurgeon.vision_pass.gpu_memory import fit_micro_batch, training_mib
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.plan import Memory

MIB = 1 << 20
MEMORY = Memory(
    weights=1200.0, gradients=600.0, saliency_scores=600.0, mask=40.0, optimizer=900.0, activations=6400.0,
    features=90_000.0, pictures=5000.0, hardening=300.0,
)  # fmt: skip


@given(gpu=st.integers(1, 100_000), at_once=st.integers(1, 64))
def test_as_many_images_as_fit_and_no_fewer(gpu: int, at_once: int):
    recipe, memory = fit_micro_batch(Recipe(micro_batch=64), MEMORY, at_once, gpu * MIB)
    images = at_once if recipe.micro_batch == 64 else recipe.micro_batch
    assert memory.activations == pytest.approx(MEMORY.activations * images / at_once)
    assert images == 1 or memory.weights + training_mib(memory) <= gpu
    if images < at_once:
        before = at_once
        while before // 2 != images:
            before //= 2
        more = replace(memory, activations=MEMORY.activations * before / at_once)
        assert memory.weights + training_mib(more) > gpu
    assert {name: value for name, value in vars(memory).items() if name != "activations"} == {
        name: value for name, value in vars(MEMORY).items() if name != "activations"
    }


def test_a_cpu_changes_nothing():
    recipe = Recipe()
    assert fit_micro_batch(recipe, MEMORY, 32, None) == (recipe, MEMORY)


def test_a_small_gpu_gets_a_smaller_micro_batch_and_says_so(
    llava: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """With the CPU in the place of a GPU of the least memory that training on four images takes."""
    job = Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], QUICK)
    whole = preparing.prepare(job)
    assert whole.job.recipe.micro_batch == QUICK.micro_batch
    per_image = whole.plan.memory.activations / 16
    four = Memory(**{**vars(whole.plan.memory), "activations": 4 * per_image})
    least = round((four.weights + training_mib(four)) * MIB) + 1
    monkeypatch.setattr(preparing, "memory_of", lambda device: least)
    fitted = preparing.prepare(job)
    assert fitted.job.recipe.micro_batch == 4
    assert fitted.plan.memory.activations == pytest.approx(4 * per_image)
    assert any("micro_batch is 4" in warning for warning in fitted.plan.warnings)
    assert preparing.refit(fitted, QUICK).job.recipe.micro_batch == 4
    assert preparing.refit(fitted, QUICK.model_copy(update={"micro_batch": 2})).job.recipe.micro_batch == 2
    assert fitted.stack.training_bytes == round(training_mib(fitted.plan.memory) * MIB)


def test_activations_are_those_of_the_largest_image(tmp_path: Path):
    """Of a tower that takes images in their own sizes, the first image says nothing about the others."""
    model = build_checkpoint("qwen2_vl", tmp_path / "model")
    small, large = (sized(tmp_path, f"side{side}", range(2), side) for side in (56, 112))

    def planned(forget: Path, retain: Path) -> Memory:
        sets = {"forget": forget, "retain": retain}
        # Subjects of equal names would be warned of, and nothing is trained here.
        return preparing.prepare(Job(model, samples(sets, "forget"), samples(sets, "retain"), [], QUICK)).plan.memory

    mixed, turned = planned(small, large), planned(large, small)
    other = planned(small, sized(tmp_path, "other", range(2, 4), 56))
    assert mixed.activations == turned.activations > 2 * other.activations
    assert other.pictures < mixed.pictures < 4 * other.pictures
    assert other.features < mixed.features < 4 * other.features
