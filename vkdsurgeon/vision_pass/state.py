"""Where the training of tower and projector stands: all that its next step depends on, and the best state so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.resume.journal import Kept, Snapshot
from vkdsurgeon.training.resume.state import Trainee, generator_numbers, set_generator
from vkdsurgeon.training.resume.trees import put_together, taken_apart
from vkdsurgeon.training.sampler import Sampler, torch_shuffle
from vkdsurgeon.vision_pass.stop_rule import Choice, Seen, Verdict, choose, judge
from vkdsurgeon.vision_pass.trainer import DistillationTerm

VISUAL = "visual"
_COMPANION = "companion "


class Companion(Protocol):
    """Something that takes part in every step and carries something of its own from one to the next."""

    def state_dict(self) -> dict[str, Any]:
        """What it carries, for `resume.trees`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""


@dataclass
class TrainingState:
    """The training of one student, schedule after schedule.

    Attributes:
        trainee: The selected weights and their optimizer.
        terms: Forgetting and retention.
        generator: Source of the order of the images.
        recipe: The settings.
        companions: What else a step depends on, by name.
        verdicts: The stop rule's, one per finished schedule.
        step: Steps done of the schedule that was begun; 0 between schedules.
        last: The last step.
        samplers: Of each term's images, while a schedule is under way.
        best: Index of the best verdict, and the selected weights it was given on; only for weights that are not the
            trainee's any more.
    """

    trainee: Trainee
    terms: Sequence[DistillationTerm]
    generator: torch.Generator
    recipe: Recipe
    companions: Mapping[str, Companion] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    step: int = 0
    last: Step | None = None
    samplers: list[Sampler[int]] = field(default_factory=list)
    best: tuple[int, dict[str, Tensor]] | None = None

    @property
    def choice(self) -> Choice | None:
        """The best of the states that are still there; None before the first verdict."""
        there = [] if self.best is None else [self.best[0]]
        if self.verdicts and self.step == 0:
            there.append(len(self.verdicts) - 1)
        return choose(self.verdicts, there) if there else None

    @property
    def open(self) -> bool:
        """Whether the stop rule is not met yet, the budget not spent, and the last extension helped."""
        choice = self.choice
        met = choice is not None and self.verdicts[choice.index].met
        # An extension in vain ends the run: the next one, as long and as small, would be no other, unless it is to mend
        # retention alone, which weighs more with every time that it failed.
        worse = choice is not None and len(self.verdicts) > 1 and choice.index < len(self.verdicts) - 1
        in_vain = worse and not self.verdicts[-1].failed_in_retention_alone
        return not met and not in_vain and len(self.verdicts) <= self.recipe.extensions

    @property
    def schedule(self) -> tuple[int, float]:
        """Steps and peak of the schedule under way: an extension has half of both.

        The peak is the recipe's step size, or where it has none a factor of the size that is measured.
        """
        share = 1.0 if not self.verdicts else 0.5
        return max(int(self.recipe.planned_steps * share), 1), (self.recipe.step_size or 1.0) * share

    def begin(self) -> None:
        """Begin a schedule, or go on with one that was begun."""
        if self.step:
            return
        choice = self.choice
        if choice is not None and choice.index == len(self.verdicts) - 1:
            self.best = choice.index, self.trainee.values()
        self.samplers = [Sampler(term.train, torch_shuffle(self.generator)) for term in self.terms]

    def stepped(self, step: Step) -> None:
        """A step is done."""
        self.step, self.last = step.step, step

    def judged(self, verdict: Verdict) -> None:
        """A schedule is done, and the stop rule has looked."""
        self.verdicts.append(verdict)
        self.step, self.samplers = 0, []

    def restore_best(self) -> Choice:
        """End on the best state: write its weights back where training has moved on."""
        choice = self.choice
        assert choice is not None
        if self.best is not None and choice.index == self.best[0]:
            self.trainee.put(self.best[1])
        return choice

    def snapshot(self) -> Snapshot:
        """All of it, for the journal."""
        states = {name: each.state_dict() for name, each in self.companions.items()}
        carried, aside = taken_apart(states, _COMPANION)
        facts = {
            **self.trainee.facts(),
            "companion": carried,
            "generator": generator_numbers(self.generator),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "step": self.step,
            "last": None if self.last is None else self.last.flat(),
            "orders": [list(sampler.left) for sampler in self.samplers],
            "best": None if self.best is None else self.best[0],
            "written": None if self.choice is None else asdict(self.choice),
        }
        files = self.trainee.files(f"{len(self.verdicts)}.{self.step}")
        stamp, make = files["state"]
        files["state"] = stamp, lambda: make() | aside
        if self.best is not None:
            index, values = self.best
            files["best"] = (str(index), lambda: values)
        return Snapshot(facts, files)

    def restore(self, kept: Kept) -> None:
        """Stand where a journal left off. The trainee has the checkpoint's weights and a fresh optimizer.

        Raises:
            UserError: The journal is damaged.
        """
        facts = kept.facts
        with kept.intact():
            tensors = kept.tensors["state"]()
            self.trainee.load(tensors, facts)
            device = next(iter(self.trainee.parameters.values())).device
            carried = put_together(facts["companion"], tensors, device)
            for name, each in self.companions.items():
                each.load_state_dict(carried[name])
            set_generator(self.generator, facts["generator"])
            self.verdicts = [self._again(verdict) for verdict in facts["verdicts"]]
            self.step, self.last = facts["step"], None if facts["last"] is None else Step.from_flat(facts["last"])
            if self.step:
                pairs = zip(self.terms, facts["orders"], strict=True)
                shuffle = torch_shuffle(self.generator)
                self.samplers = [Sampler(term.train, shuffle, left) for term, left in pairs]
            if facts["best"] is not None:
                self.best = facts["best"], kept.tensors["best"]()

    def _again(self, verdict: dict[str, Any]) -> Verdict:
        # The bounds may be others than those of the run that measured it.
        seen = {each.name: verdict[each.name] for each in fields(Seen)}
        pairs = {key: tuple(seen[key]) for key in ("pictures", "held_out")}
        return judge(self.recipe, Seen(**(seen | pairs)))
