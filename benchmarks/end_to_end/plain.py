"""The loops that the project's own is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.end_to_end.case import LAYER, PEAK
from benchmarks.end_to_end.ours import Ours
from benchmarks.end_to_end.stopwatch import Stopwatch
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.vision_pass.trainer import DistillationTerm

_PROMPT = 32
# Activations of a language model of 7 B parameters for more images do not fit a GPU beside student and teacher.
_MICRO_BATCH = 8


class Plain:
    """A loop as one would write it: student and teacher both alive, dense AdamW, frozen elements put back.

    Args:
        ours: Gives images, start and mask.
        forward: Student's or teacher's output for a batch of images.
        loss: Of student's and teacher's output.
        parameters: The visual parameters that train, by the names of the mask.
        micro_batch: Most images that pass at once.
    """

    def __init__(
        self,
        ours: Ours,
        forward: dict[str, Callable[[ImageBatch], Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        parameters: dict[str, nn.Parameter],
        micro_batch: int,
    ) -> None:
        self.terms, self.recipe, self.device = ours.terms, ours.recipe, ours.device
        self.samples = ours.whole
        self.student, self.teacher, self.loss = forward["student"], forward["teacher"], loss
        self.micro_batch = micro_batch
        self.masks, self.start = ours.masks, ours.start
        self.parameters = {name: parameters[name] for name in ours.masks}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in ours.masks)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=PEAK, weight_decay=self.recipe.weight_decay, fused=True
        )
        self.first_loss: float | None = None

    def steps(self, count: int, watch: Stopwatch) -> None:
        """Take some steps."""
        for _ in range(count):
            total = torch.zeros((), device=self.device)
            for term in self.terms:
                for _, images in self._input(term, watch):
                    with watch.stage("teacher"), torch.no_grad():
                        target = targets_of(self.teacher(images))
                    with watch.stage("forward"):
                        student = self.student(images)
                    with watch.stage("loss"):
                        loss = term.weight * self.loss(student, target).sum() / len(term.train)
                    with watch.stage("backward"):
                        loss.backward()
                    total += loss.detach()
            with watch.stage("step"):
                self._step()
            self.first_loss = float(total) if self.first_loss is None else self.first_loss

    def _input(self, term: DistillationTerm, watch: Stopwatch) -> Iterator[tuple[list[int], ImageBatch]]:
        with watch.stage("input"):
            found = list(self.samples[term.name].batches(term.train, self.micro_batch))
        yield from found

    @torch.no_grad()
    def _step(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad.mul_(self.masks[name])
        nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, parameter in self.parameters.items():
            torch.where(self.masks[name], parameter, self.start[name], out=parameter.data)


def targets_of(features: Tensor) -> Tensor:
    """What the student is to see: each image as the next one, so that there is something to learn."""
    return features.roll(1, dims=0)


def nmse(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the target's mean square, [B]."""
    s, t = student.float(), target.float()
    return (s - t).square().mean(dim=(1, 2)) / t.square().mean(dim=(1, 2))


def divergence(student: Tensor, target: Tensor) -> Tensor:
    """KL divergence of the next token's distribution, mean over the prompt, [B]."""
    s, t = (logits.float().log_softmax(dim=-1) for logits in (student, target))
    return nn.functional.kl_div(s, t, log_target=True, reduction="none").sum(dim=-1).mean(dim=1)


def plain_loop(ours: Ours) -> Plain:
    """The plain loop on copies of the stack."""
    student, teacher = copy.deepcopy(ours.stack), copy.deepcopy(ours.stack)
    forward = {
        "student": lambda images: student.features(images, (LAYER,))[LAYER],
        "teacher": lambda images: teacher.features(images, (LAYER,))[LAYER],
    }
    return Plain(ours, forward, nmse, student.visual_parameters(), ours.recipe.micro_batch)


def usual_way(ours: Ours, model: nn.Module) -> Plain:
    """The usual way on the whole model, which lies on the device."""
    student = model
    teacher = copy.deepcopy(student).requires_grad_(False)
    student.requires_grad_(False)
    vision = student.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, 30_000, (_PROMPT,), generator=generator)
    row = torch.cat([torch.full((tokens,), student.config.image_token_id), prompt]).to(ours.device)

    def through(whole: nn.Module) -> Callable[[ImageBatch], Tensor]:
        def forward(images: ImageBatch) -> Tensor:
            pixels = images.inputs["pixel_values"].to(ours.device, torch.float32)
            ids = row.expand(images.size, -1)
            with torch.autocast(ours.device.type, torch.bfloat16, enabled=ours.stack.mixed):
                return whole(input_ids=ids, pixel_values=pixels, logits_to_keep=_PROMPT, use_cache=False).logits

        return forward

    named = dict(student.named_parameters())
    parameters = {name: named[name] for name in ours.start}
    return Plain(ours, {"student": through(student), "teacher": through(teacher)}, divergence, parameters, _MICRO_BATCH)
