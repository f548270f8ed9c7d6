"""A tiny model that knows people, and examples about them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.tiny_llava import World, world
from vkdsurgeon.baselines.examples import TrainingSets, training_sets
from vkdsurgeon.baselines.language_loss import LanguageLoss
from vkdsurgeon.data.read import read_records
from vkdsurgeon.model.batches import log_probabilities
from vkdsurgeon.model.multimodal import LoadedModel, load_model


@dataclass
class Stage:
    """A loaded model with its language loss and examples."""

    loaded: LoadedModel
    language: LanguageLoss
    training_sets: TrainingSets

    def answer(self, example, answer: str | None = None) -> Tensor:
        """Log-probability of each token of an answer, read one by one: [n] float32."""
        with torch.no_grad():
            return log_probabilities(self.loaded, [self.language.request(example, answer)])[0, :, 0]

    def everything(self, example) -> Tensor:
        """Log-probabilities of the whole vocabulary at the answer's positions, [n, V]."""
        with torch.no_grad():
            _, _, logits = next(iter(self.language.logits([example])))
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
    return Stage(loaded, LanguageLoss(loaded, 4, 1 << 24, 0), training_sets(*sets))
