"""How many images may pass the tower at once on a GPU, so that nobody has to try."""

from __future__ import annotations

from dataclasses import replace

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.vision_pass.plan import Memory

_MIB = 1 << 20
# Matrix products have a workspace, and memory falls to pieces: what a step takes beyond the tensors that are counted.
_BEYOND, _WORKSPACE = 1.25, 1024.0


def training_mib(memory: Memory) -> float:
    """MiB of a GPU that training takes beyond the weights; features and images are in main memory."""
    return _BEYOND * memory.training + _WORKSPACE


def fit_micro_batch(recipe: Recipe, memory: Memory, at_once: int, gpu_bytes: int | None) -> tuple[Recipe, Memory]:
    """Halve `micro_batch` until training fits a GPU, whoever else uses it left out.

    The same GPU gives the same number each time, so that an interrupted run is resumed with it.

    Args:
        recipe: The settings.
        memory: Estimated for it.
        at_once: Images that pass at once by it.
        gpu_bytes: The GPU's memory; None for a CPU, where nothing changes.

    Returns:
        The recipe and its memory; with one image at once whether that fits or not.
    """
    images = at_once
    while gpu_bytes is not None and images > 1 and memory.weights + training_mib(memory) > gpu_bytes / _MIB:
        memory = replace(memory, activations=memory.activations / images * (images // 2))
        images //= 2
    return (recipe if images == at_once else recipe.model_copy(update={"micro_batch": images})), memory
