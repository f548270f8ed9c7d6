"""What a vision pass is asked to do, and what is loaded and known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.model.features import SampleSet, TeacherPass, teacher_features
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.objective import DistillationTerms
from vkdsurgeon.vision_pass.plan import Plan
from vkdsurgeon.vision_pass.replay_format import Replay
from vkdsurgeon.vision_pass.teacher import Teacher


@dataclass(frozen=True)
class Job(ModelSource):
    """What the user asked for.

    Attributes:
        forget: Images to forget.
        retain: Images whose reading is kept; may be empty when `generic` is not.
        generic: Images of others, used for retention as well.
        recipe: The settings.
        forget_teacher: Checkpoint whose features on the forget images are the targets (forget target `reference`).
        retain_teacher: Checkpoint whose features on kept images are kept, instead of the model's own.
        replay: What earlier requests kept of those whom they forgot, who are forgotten again.
    """

    # Declared again so that it can be given first, without its name.
    model: Path
    forget: Sequence[Sample]
    retain: Sequence[Sample]
    generic: Sequence[Sample]
    recipe: Recipe
    forget_teacher: Path | None = None
    retain_teacher: Path | None = None
    replay: Replay | None = None

    def teacher(self, role: str) -> Teacher | None:
        """The other model that teaches `forget` or `retain`, if there is one."""
        model = self.forget_teacher if role == "forget" else self.retain_teacher
        if model is None:
            return None
        return Teacher(option=f"`{role}_teacher`", **self.source | {"model": model})


@dataclass(frozen=True)
class Taught:
    """The terms of a job, and what making them took.

    Attributes:
        terms: Forgetting and retention.
        generator: Source of all later draws.
        seconds: Wall time.
    """

    terms: DistillationTerms
    generator: torch.Generator
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A job whose model and images are loaded and whose cost is known; nothing was changed yet.

    Attributes:
        job: As asked for, with everything derived that was left to the data.
        stack: Tower and projector.
        forget: Images to forget.
        keep: Retain and generic images.
        plan: What is going to be done.
        look: Runs the own teacher over a set.
        taught: What `teach` made; None before.
    """

    job: Job
    stack: VisualStack
    forget: SampleSet
    keep: SampleSet
    plan: Plan
    look: TeacherPass = teacher_features
    taught: Taught | None = None
