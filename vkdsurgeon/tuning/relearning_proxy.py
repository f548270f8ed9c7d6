"""A simulated attacker who pulls the forget images' features back to the original's.

First-order relearning in feature space: it needs no language model and no answers, only the original's features, which
whoever has the original checkpoint has. It trains every visual weight, since a mask binds no attacker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vkdsurgeon.config.forgetting import Distance
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.losses import accumulate, feature_loss, layer_loss
from vkdsurgeon.training.optimizer import build_optimizer, take_step
from vkdsurgeon.training.saliency import everything
from vkdsurgeon.training.sampler import Sampler, torch_shuffle
from vkdsurgeon.training.schedule import Schedule


@dataclass(frozen=True)
class Attacker:
    """The attacker's recipe; recovery means nothing without it.

    Attributes:
        steps: AdamW steps.
        step_size: Size of a step relative to each weight, as the recipe's `step_size`; constant.
        batch: Images per step.
        loss: Distance to the original's features at what the language model reads.
    """

    steps: int = 8
    step_size: float = 0.05
    batch: int = 16
    loss: Distance = "nmse"

    def as_dict(self) -> dict[str, Any]:
        """The settings of the simulated attacker as JSON values."""
        return {**asdict(self), "weights": "all of tower and projector", "optimizer": "AdamW, no weight decay"}

    def attack(
        self,
        stack: VisualStack,
        samples: SampleSet,
        originals: FeatureStore,
        micro_batch: int,
        seed: int,
    ) -> Iterator[int]:
        """Take the steps, on the weights in place.

        Args:
            stack: The unlearned student.
            samples: What the attacker shows it.
            originals: The teacher's features of them at `stack.outputs`.
            micro_batch: Most images at once.
            seed: Seed of the order of the images.

        Yields:
            The number of steps taken, after each.

        Raises:
            Diverged: The loss is not finite.
        """
        parameters = {name: value for name, value in stack.visual_parameters().items() if value.is_floating_point()}
        for parameter in parameters.values():
            parameter.grad = None
        # Masked although nothing is: with float32 masters, or small steps would be lost in a bfloat16 weight.
        optimizer = build_optimizer(parameters, everything(parameters), step_size=self.step_size, during_backward=None)
        generator = torch.Generator().manual_seed(seed)
        loss, layers = feature_loss(self.loss), dict.fromkeys(stack.outputs, 1.0)
        sampler = Sampler(range(len(samples)), torch_shuffle(generator))

        def gather(_: int) -> tuple[float, dict[str, float]]:
            chosen = sampler.draw(self.batch)
            looks = (
                (part, stack.features(batch, stack.outputs)) for part, batch in samples.batches(chosen, micro_batch)
            )
            terms = (layer_loss(loss, layers, seen, originals, part, 1 / len(chosen)) for part, seen in looks)
            return accumulate(terms, 1.0), {}

        diverged = "the simulated attack diverged at step {step} (loss {loss})"
        constant = Schedule(self.steps, 0.0, 0.0)
        for step in run_steps(constant, gather, lambda _, size: take_step(optimizer, size), diverged=diverged):
            yield step.step
