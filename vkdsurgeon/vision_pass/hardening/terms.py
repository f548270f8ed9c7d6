"""What a recipe's hardening adds to the gradient of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import Diverged
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.frozen_layers import parameters_after
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.losses import accumulate
from vkdsurgeon.training.optimizer import unit_step
from vkdsurgeon.vision_pass.hardening.entrance import entrance_of
from vkdsurgeon.vision_pass.hardening.identity_heads import IdentityHeads
from vkdsurgeon.vision_pass.hardening.objective import ForgetObjective
from vkdsurgeon.vision_pass.hardening.simulated_attack import SimulatedAttacker
from vkdsurgeon.vision_pass.hardening.temporary_weights import TemporaryWeights
from vkdsurgeon.vision_pass.objective import DistillationTerms
from vkdsurgeon.vision_pass.targets.stretched import StretchedTargets

# Kept subjects are what forgotten ones are told apart from; more of them make heads slower and hardly better.
_MOST_IMAGES = 1024
_ENTRANCE = "entrance of the trained layers"


class Hardener:
    """Adds the gradients of the recipe's hardening terms to those that a step has gathered.

    Args:
        objective: The forget term.
        weights: What a simulated attacker moves, by name.
        seed: Seed of the draws that decide which subjects each simulated attacker has images of.
    """

    def __init__(self, objective: ForgetObjective, weights: Mapping[str, Parameter], seed: int) -> None:
        self.objective, self.weights, self.recipe = objective, weights, objective.recipe
        self.units = {name: unit_step(value) for name, value in weights.items()}
        self._seed = seed
        self.attacker = SimulatedAttacker(
            weights,
            self.units,
            {
                "features": [objective.relearn],
                "identity": [objective.reread],
                "both": [objective.relearn, objective.reread],
            }[self.recipe.tamper_goal],
            size=self.recipe.tamper_size,
            horizon=self.recipe.tamper_horizon,
            processes=objective.stack.processes,
        )

    def __call__(self, indices: Sequence[int]) -> None:
        """Add the terms' gradients; every weight has its bits back afterwards.

        Args:
            indices: The forget images of a step. One image alone is both halves of an attack.

        Raises:
            Diverged: A term is not finite.
        """
        recipe, objective = self.recipe, self.objective
        if recipe.tamper_weight:
            shown, judged = _halves(indices) if recipe.tamper_split == "pictures" else self.sides(indices)
            with TemporaryWeights(self.weights) as temporary:
                self.attacker.attack(temporary, shown, recipe.tamper_steps)
                losses = objective.forget(judged, recipe.tamper_weight, recipe.tamper_weight * recipe.identity_weight)
                self.learn(losses, "forget loss under the simulated attack")
        if recipe.identity_weight:
            self.learn(objective.forget(indices, 0.0, recipe.identity_weight), "identity hinge")

    def state_dict(self) -> dict[str, Any]:
        """What a step needs of the steps before it, beside the student's weights; tensors and numbers only."""
        return self.attacker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.attacker.load_state_dict(state)

    def learn(self, losses: Iterator[Tensor], name: str) -> None:
        """Leave the gradient of the losses' sum with the student's selected weights."""
        (loss,) = self.objective.stack.processes.totals([accumulate(losses, 1.0)])
        if not math.isfinite(loss):
            raise Diverged(f"the {name} became {loss}; nothing was written. Try a lower {self.recipe.size_key}")

    def sides(self, indices: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """A step's forget images of the subjects whom the simulated attacker has, and of the others.

        An attack that goes on from step to step keeps its subjects. Where one side has no image in this step, the
        images are halved instead.
        """
        subjects = self.objective.term.samples.subjects
        known = sorted(set(subjects), key=str)
        draws = torch.Generator().manual_seed((self._seed * 1_000_003 - self.attacker.number) % 2**63)
        order = torch.randperm(len(known), generator=draws).tolist()
        attacked = {known[place] for place in order[: (len(known) + 1) // 2]}
        shown = [index for index in indices if subjects[index] in attacked]
        judged = [index for index in indices if subjects[index] not in attacked]
        return (shown, judged) if shown and judged else _halves(indices)


def prepare_hardening(stack: VisualStack, taught: DistillationTerms, recipe: Recipe, seed: int) -> Hardener | None:
    """Train heads, as far as the recipe asks for them.

    Args:
        stack: The student while it still is the teacher.
        taught: Forgetting and retention.
        recipe: The settings.
        seed: Seed of the heads' training and of whom each simulated attacker has.

    Returns:
        What adds to the gradients of a step; None where the recipe has no such term.
    """
    forget, retain = taught.both
    if not (recipe.tamper_weight or recipe.identity_weight):
        return None
    layers = tuple(forget.layers)
    assert isinstance(forget.targets, StretchedTargets)
    teacher = forget.targets.teacher
    heads = None
    if recipe.identity_weight or (recipe.tamper_weight and recipe.tamper_goal != "features"):
        assert isinstance(retain.targets, FeatureStore)
        kept = retain.targets.all(layers[-1])
        chosen = retain.train[:: max(1, -(-len(retain.train) // _MOST_IMAGES))]
        heads = IdentityHeads(
            teacher.all(layers[-1]),
            forget.samples.subjects,
            [kept[index] for index in chosen],
            [retain.samples.subjects[index] for index in chosen],
            layer=layers[-1],
            margin=recipe.identity_margin,
            generator=torch.Generator().manual_seed(seed),
            device=stack.device,
        )
    entrance = entrance_of(stack, forget.samples, taught.frozen)
    attacked = stack.visual_parameters()
    if entrance is not None:
        attacked = {**parameters_after(stack, taught.frozen), _ENTRANCE: entrance.matrix}
    return Hardener(ForgetObjective(stack, forget, recipe, teacher, heads, entrance), attacked, seed)


def _halves(indices: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    middle = (len(indices) + 1) // 2
    return indices[:middle], indices[middle:] or indices
