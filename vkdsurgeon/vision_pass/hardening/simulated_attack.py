"""A simulated attacker that fine-tunes the student back to what it knew.

First-order tamper resistance in feature space. With a(.) K steps of an attacker on one half of a batch's images,

    theta_a = theta - s sum_k u * sign( grad d(h(x; theta_k), t(x)) ),    x in the first half

the gradient of the forget loss at theta_a on the other half is added to the student's own, as if theta_a depended on
theta by the identity alone (first-order MAML, arXiv 1703.03400). An attacker may also be after the reading of identity
heads (`identity_heads`) instead of features, which many features satisfy. Training against simulated fine-tuning is
TAR's idea (arXiv 2408.00761); done in feature space it needs neither labels nor the language model. u is each weight's
unit step (`optimizer.unit_step`), and direction is the sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.vision_pass.hardening.objective import gradients
from vkdsurgeon.vision_pass.hardening.temporary_weights import TemporaryWeights, all_trainable

Goal = Callable[[Sequence[int]], Iterator[Tensor]]
"""Images -> terms of what an attacker minimises on them."""


class SimulatedAttacker:
    """Takes steps back to the teacher, on every weight, selected or not.

    Args:
        weights: Parameters of tower and projector by name.
        units: Unit step of each.
        goals: Each yields the terms of a loss, given images, at the weights as they are; attack after attack has the
            next of them.
        size: Size of a step in those units.
        horizon: After so many steps the attacker starts afresh; None is afresh at every call of `attack`.
        processes: Those that divide the images of a goal.
    """

    def __init__(
        self,
        weights: Mapping[str, Parameter],
        units: Mapping[str, float],
        goals: Sequence[Goal],
        *,
        size: float,
        horizon: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self._weights, self._units, self._goals = weights, units, goals
        self._size, self._horizon = size, horizon
        self._processes = processes
        self._taken = 0
        self._begun = 0
        self._offsets: dict[str, Tensor] = {}

    @property
    def number(self) -> int:
        """Number, from 1, of the attack that the next call of `attack` goes on with or begins."""
        return self._begun + int(self._afresh)

    @property
    def _afresh(self) -> bool:
        return self._begun == 0 or self._horizon is None or self._taken >= self._horizon

    def attack(self, temporary: TemporaryWeights, indices: Sequence[int], steps: int) -> None:
        """Move the weights.

        Args:
            temporary: The weights; not moved yet.
            indices: Images that the attacker has.
            steps: How many steps.
        """
        if self._afresh:
            self._taken, self._offsets = 0, {}
            self._begun += 1
        goal = self._goals[(self._begun - 1) % len(self._goals)]
        for name, offset in self._offsets.items():
            temporary.move(name, offset)
        for _ in range(steps):
            self._taken += 1
            with all_trainable(self._weights):
                found = gradients(goal(indices), self._weights, self._processes)
            for name, gradient in found.items():
                temporary.move(name, gradient.float().sign() * (-self._size * self._units[name]))
        if self._horizon is not None:
            self._offsets = temporary.offsets

    def state_dict(self) -> dict[str, Any]:
        """Where the attacker stands, as far as the next call depends on it."""
        state: dict[str, Any] = {"begun": self._begun}
        if self._horizon is not None:
            state |= {"taken": self._taken, "offsets": self._offsets}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._begun, self._taken = state["begun"], state.get("taken", 0)
        self._offsets = dict(state.get("offsets", {}))
