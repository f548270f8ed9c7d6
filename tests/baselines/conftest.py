"""A tiny model that knows people, and exercises about them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.tiny_llava import World, world
from vkdsurgeon.baselines.examples import Material, material
from vkdsurgeon.baselines.language_loss import Scene
from vkdsurgeon.data.read import read_records
from vkdsurgeon.model.batches import log_probabilities
from vkdsurgeon.model.multimodal import LoadedModel, load_model


@dataclass
class Stage:
    """A loaded model with its scene and exercises."""

    loaded: LoadedModel
    scene: Scene
    material: Material

    def answer(self, exercise, answer: str | None = None) -> Tensor:
        """Log-probability of each token of an answer, read one by one: [n] float32."""
        with torch.no_grad():
            return log_probabilities(self.loaded, [self.scene.request(exercise, answer)])[0, :, 0]

    def everything(self, exercise) -> Tensor:
        """Log-probabilities of the whole vocabulary at the answer's positions, [n, V]."""
        with torch.no_grad():
            _, _, logits = next(iter(self.scene.logits([exercise])))
        return logits[0].log_softmax(dim=1)

    def nudge(self, size: float = 0.02) -> None:
        """Move every weight a little, the same way each time."""
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.loaded.model.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="session")
def facts() -> World:
    return world()


@pytest.fixture
def stage(facts: World) -> Stage:
    loaded = load_model(facts.base, device="cpu", dtype="float32")
    sets = [read_records(path, role="set") for path in (facts.forget, facts.retain, facts.text)]
    return Stage(loaded, Scene(loaded, 4, 1 << 24, 0), material(*sets))
