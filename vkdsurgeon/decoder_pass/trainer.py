"""The loop of the decoder pass: W is distilled towards its own former self, looking with other visual features.

    L_W = KL( W0(T(x), q) || W(f, q) ) + a KL( W0(T(x), q) || W(T(x), q) )         x forgotten
        + b KL( W0(t(r), q) || W(g, q) )  +  c KL( W0(text) || W(text) )           r kept

t are the original features, T those of the unlearned tower and projector, W0 the original language model. Half of the
forget questions are asked with f = t(x), half at features that `FeatureAdversary` found; kept ones by halves with
g = t(r), T(r). A method of this project's own (docs/studies/method.md). KL is a mean over judged positions and over
questions, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.decoder_pass.adversarial_features import FeatureAdversary
from vkdsurgeon.decoder_pass.teacher import TeacherAnswer, TeacherOutputs, VisionSwap
from vkdsurgeon.model.questions import Question
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.losses import accumulate, kl
from vkdsurgeon.training.optimizer import take_step
from vkdsurgeon.training.sampler import GroupedSampler
from vkdsurgeon.training.schedule import Schedule

FORGET, RETAIN, TEXT = "forget", "retain", "text"
# What W0 said of the original features of the forget images, along nobody's answers.
ORIGINAL = "original"


@dataclass(frozen=True)
class Drift:
    """How far the student is from the teacher.

    Attributes:
        kl: Mean KL divergence per judged position, nats.
        agreement: Share of the questions that a greedy student would answer in the teacher's very tokens.
        questions: How many were asked.
    """

    kl: float
    agreement: float
    questions: int


def distil(
    outputs: TeacherOutputs,
    role: str,
    answers: Sequence[TeacherAnswer],
    *,
    vision: VisionSwap = nullcontext,
    weight: float | None = None,
    adversary: FeatureAdversary | None = None,
) -> Drift:
    """Compare the student with the teacher on some questions.

    Args:
        outputs: What the teacher says; its model is the student by now.
        role: The set that the questions belong to.
        answers: The teacher's answers to the questions.
        vision: Context in which the student looks at images.
        weight: Leave the gradient of the KL divergence times this in the parameters; None only measures.
        adversary: The blend of `vision`: first looks for features that are still read as the original ones were.
    """
    same = 0

    def divergences() -> Iterator[Tensor]:
        nonlocal same
        for part, look in outputs.batches(answers):
            if adversary is not None:
                _seek(outputs, part, look, adversary)
            logits = look()
            teacher = outputs.log_probabilities(role, part)
            yield kl(teacher, logits.log_softmax(dim=2)).mean(dim=1).sum() / len(answers)
            answered = slice(-len(part[0].tokens), None)
            equal = logits[:, answered].argmax(dim=2) == torch.tensor(
                [answer.tokens for answer in part], device=logits.device
            )
            same += int(equal.all(dim=1).sum())

    with vision():
        total = accumulate(divergences(), weight)
    return Drift(total, same / max(len(answers), 1), len(answers))


def _seek(
    outputs: TeacherOutputs, part: Sequence[TeacherAnswer], look: Callable[[], Tensor], adversary: FeatureAdversary
) -> None:
    adversary.begin()
    wanted = outputs.log_probabilities(ORIGINAL, part)
    for _ in range(adversary.steps):
        adversary.move(kl(wanted, look().log_softmax(dim=2)).sum())


@dataclass(frozen=True)
class VisionSwaps:
    """Contexts for the looks of training.

    Attributes:
        student: Through the unlearned tower and projector.
        around: Somewhere on and beside the way from the unlearned to the original features, as the adversary says.
        adversary: The blend of `around`.
    """

    student: VisionSwap
    around: VisionSwap
    adversary: FeatureAdversary


def train(
    outputs: TeacherOutputs,
    samplers: dict[str, GroupedSampler[Question]],
    vision: VisionSwaps,
    optimizer: MaskedAdamW,
    recipe: DecoderRecipe,
    listen: Callable[[Step], None],
    done: int = 0,
) -> None:
    """Run the schedule, or the rest of it.

    Args:
        outputs: What the teacher says to every question of the samplers.
        samplers: Questions by role: forget, retain, text.
        vision: Contexts in which W sees otherwise than through its own tower and projector.
        optimizer: Holds the mask.
        recipe: The settings.
        listen: Called with every step; its values are KL divergences in nats.
        done: Steps that were made before.

    Raises:
        Diverged: The loss is not finite.
    """

    def gather(_: int) -> tuple[float, dict[str, float]]:
        drawn = draw(outputs, samplers, recipe)
        first, second = _halves(drawn[FORGET])
        forget = distil(outputs, FORGET, first, weight=0.5)
        around = distil(outputs, FORGET, second, vision=vision.around, weight=0.5, adversary=vision.adversary)
        nobody = distil(outputs, FORGET, drawn[FORGET], vision=vision.student, weight=recipe.nobody_weight)
        first, second = _halves(drawn[RETAIN])
        retain = distil(outputs, RETAIN, first, weight=recipe.retain_weight / 2)
        through = distil(outputs, RETAIN, second, vision=vision.student, weight=recipe.retain_weight / 2)
        text = distil(outputs, TEXT, drawn[TEXT], weight=recipe.text_weight)
        forget_kl, retain_kl = (forget.kl + around.kl) / 2, (retain.kl + through.kl) / 2
        loss = (
            forget_kl
            + recipe.nobody_weight * nobody.kl
            + recipe.retain_weight * retain_kl
            + recipe.text_weight * text.kl
        )
        divergences = {"forget_kl": forget_kl, "nobody_kl": nobody.kl, "retain_kl": retain_kl, "text_kl": text.kl}
        return loss, divergences

    diverged = (
        "the decoder pass diverged at step {step} (loss {loss}); nothing was written. Try a lower decoder.step_size"
    )
    schedule = Schedule(recipe.steps, recipe.warmup, recipe.decay)
    for step in run_steps(schedule, gather, lambda _, size: take_step(optimizer, size), diverged=diverged, done=done):
        listen(step)


def draw(
    outputs: TeacherOutputs, samplers: dict[str, GroupedSampler[Question]], recipe: DecoderRecipe
) -> dict[str, list[TeacherAnswer]]:
    """The questions of one step."""
    sizes = {FORGET: recipe.forget_batch, RETAIN: recipe.retain_batch, TEXT: recipe.text_batch}
    return {role: outputs.answers_to(role, sampler.draw(sizes[role])) for role, sampler in samplers.items()}


def _halves(answers: Sequence[TeacherAnswer]) -> tuple[Sequence[TeacherAnswer], Sequence[TeacherAnswer]]:
    # A single question cannot be halved; both looks then ask it.
    middle = (len(answers) + 1) // 2
    return answers[:middle], answers[middle:] or answers
