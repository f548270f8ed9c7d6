"""Images per second of unlearning, end to end: this project's loop, a plain PyTorch loop, and the usual way.

    python -m benchmarks.end_to_end [--size tiny|small|vit-b|vit-l] [--device cpu|cuda] [--record]

All three train the same tower of a random LLaVA on the same images, towards the same kind of targets, under the same
mask, a few steps each in turns:

- `ours`: `vkdsurgeon.vision_pass.trainer.train`; the teacher's features, and what frozen layers return, were computed
  once.
- `plain loop`: the same recipe as one would write it, the same two layers and projector trained: the teacher runs every
  step, the loss is the formula, the gradient is masked, `torch.optim.AdamW(fused=True)` moves everything and the frozen
  elements are put back.
- `usual way`: as the plain loop, but with the language model loaded, and the loss between the outputs of student and
  teacher at the end of it (KL divergence of the next token, as output-level distillation does).

All compute in the precision that `--dtype auto` of `unlearn` chooses.

Before anything is timed, the first two must agree on the loss of the first step, and all must leave frozen elements
alone. One row per way goes to benchmarks/results/end_to_end.jsonl with `--record`. The breakdown is in seconds per
step, from extra steps that are not part of the rate; `forward` is the tower's, and in the usual way the language
model's too.

`run_seconds` is computed from what was measured: a default run on 40 forget and 200 retain images, 300 steps of 48
images, for `ours` with the teacher's pass over these images and their four copies. Simulated attacks are in none of the
three; all are granted the same number of steps.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMultimodalLM, CLIPVisionConfig, LlamaConfig, LlavaConfig
from vkdsurgeon_kernels import choose
from vkdsurgeon_kernels.bitmask import BitMask

from benchmarks.provenance import RESULTS, keep, provenance
from tests.conftest import draw_subject
from tests.families import _sized as image_processor
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.model.features import FeatureStore, SampleSet, teacher_features
from vkdsurgeon.model.frozen_layers import kept_activations, output_of
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.training import losses
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.saliency import random_scores, select
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.objective import run_once
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.trainer import DistillationTerm, train

SCHEMA = "vkdsurgeon/end-to-end/1"
FILE = RESULTS / "end_to_end.jsonl"
IDENTITY = ("case", "provider", "language_parameters")
LAYER = "projector"
_ALL_IN_MEMORY = 1 << 40
_PEAK, _DECAY, _PROMPT = 1e-3, 0.01, 32
# Activations of a language model of 7 B parameters for more images do not fit a GPU beside student and teacher.
_MICRO_BATCH = 8
_ROUNDS = {"tiny": 3, "small": 5, "vit-b": 3, "vit-l": 9}
# Of the run that `run_seconds` is about: images in all steps, and images with their copies.
_DRAWN, _SHOWN = 300 * 48, 5 * (40 + 200)


@dataclass(frozen=True)
class Size:
    """A LLaVA's shape, and how many images a step takes."""

    width: int
    layers: int
    heads: int
    side: int
    text_width: int
    text_layers: int
    forget: int
    retain: int


SIZES = {
    "tiny": Size(32, 5, 4, 28, 32, 2, 4, 4),
    "small": Size(384, 12, 6, 224, 1024, 4, 2, 4),
    # Language to visual operations as in LLaVA-1.5-7B, about 20.
    "vit-b": Size(768, 12, 12, 224, 2048, 28, 2, 4),
    "vit-l": Size(1024, 24, 16, 336, 4096, 32, 16, 32),
}


class Stopwatch:
    """Seconds by stage; a GPU is waited for at both ends of a stage."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """The time, when the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for a stage."""
        started = self.now()
        yield
        self.seconds[name] += self.now() - started

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted for a stage."""

        def counted(*arguments: Any, **settings: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **settings)

        return counted


class Silent(Stopwatch):
    """Counts nothing and waits for nothing."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Do nothing but what is inside."""
        yield


def build(root: Path, size: Size, dtype: torch.dtype, language_layers: int) -> nn.Module:
    """Write a random LLaVA of the LLaVA-1.5 kind and return it."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.width, intermediate_size=4 * size.width, num_hidden_layers=size.layers,
            num_attention_heads=size.heads, image_size=size.side, patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32064, hidden_size=size.text_width, intermediate_size=round(size.text_width * 2.6875),
            num_attention_heads=max(size.text_width // 128, 1), num_hidden_layers=language_layers,
        ),
        image_token_index=32000, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForMultimodalLM.from_config(config, dtype=dtype).eval()
    model.save_pretrained(root)
    sides = {"height": size.side, "width": size.side}
    image_processor("CLIPImageProcessor", size={"shortest_edge": size.side}, crop_size=sides).save_pretrained(root)
    return model


def draw_images(folder: Path, name: str, subjects: range, side: int) -> list[Any]:
    """One drawn image per subject, read back as a set."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for subject in subjects:
        path = folder / f"{subject}.png"
        draw_subject(subject, 0, side).save(path)
        rows.append(json.dumps({"image": path.name, "subject": str(subject)}))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(rows))
    return samples_of(read_records(file, role=name), role=name)


class Ours:
    """The project's loop, with the teacher's features cached."""

    def __init__(self, prepared: Prepared, masks: dict[str, Any], size: Size, mask: Any) -> None:
        self.stack, self.recipe = prepared.stack, prepared.job.recipe
        self.device = prepared.job.device
        self.parameters = self.stack.visual_parameters()
        self.start = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.masks = masks
        self.teacher_seconds = 0.0
        self.terms = [
            self._term("forget", prepared.forget, 1.0, size.forget),
            self._term("retain", prepared.keep, self.recipe.retain_weight, size.retain),
        ]
        self.optimizer = build_optimizer(
            self.parameters, mask, weight_decay=self.recipe.weight_decay, max_norm=self.recipe.clip
        )
        self.generator = torch.Generator().manual_seed(0)
        self.first_loss: float | None = None

    def _term(self, name: str, samples: SampleSet, weight: float, batch: int) -> DistillationTerm:
        everything = list(range(len(samples)))
        frozen = run_once(self.stack, self.recipe)
        output = output_of(self.stack, samples, frozen[-1])
        assert output is not None
        started = time.perf_counter()
        teacher = teacher_features(self.stack, samples, (LAYER, frozen[-1]), self.recipe.micro_batch, _ALL_IN_MEMORY)
        self.teacher_seconds += time.perf_counter() - started
        kept = kept_activations(self.stack, samples, frozen, tuple(output.shape), teacher, (LAYER,))
        assert kept is not None, "the frozen layers cannot be passed over"
        store = FeatureStore(_ALL_IN_MEMORY)
        for indices, _ in samples.batches(everything, self.recipe.micro_batch):
            for place, index in enumerate(indices):
                store.put(LAYER, index, teacher.one(LAYER, indices[place - 1]))
        samples.pass_over(kept.entering)
        loss = losses.feature_loss({self.recipe.distance: 1.0})
        return DistillationTerm(name, samples, store, self.recipe.layers, loss, everything, everything, weight, batch)

    def steps(self, count: int, watch: Stopwatch) -> None:
        """Take some steps."""
        heard: list[float] = []
        with contextlib.ExitStack() as changed:
            if not isinstance(watch, Silent):
                self._instrument(changed, watch)
            train(
                self.stack, self.terms, self.optimizer, self.recipe, steps=count, peak=_PEAK,
                generator=self.generator, listen=lambda step: heard.append(step.loss),
            )  # fmt: skip
        self.first_loss = heard[0] if self.first_loss is None else self.first_loss

    def _instrument(self, changed: contextlib.ExitStack, watch: Stopwatch) -> None:
        def batches(self: SampleSet, *arguments: Any) -> Iterator[Any]:
            source = original(self, *arguments)
            while True:
                with watch.stage("input"):
                    found = next(source, None)
                if found is None:
                    return
                yield found

        original = SampleSet.batches
        loss = watch.timed("loss", losses.feature_distillation)
        changed.enter_context(_replaced(SampleSet, "batches", batches))
        changed.enter_context(_replaced(losses, "feature_distillation", loss))
        for owner, name, stage in (
            (self.stack, "features", "forward"),
            (FeatureStore, "get", "teacher"),
            (Tensor, "backward", "backward"),
            (self.optimizer, "step", "step"),
        ):
            changed.enter_context(_replaced(owner, name, watch.timed(stage, getattr(owner, name))))


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    # An instance that has the attribute from its class loses the replacement; everything else gets the original back.
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


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
        self.student, self.teacher, self.loss = forward["student"], forward["teacher"], loss
        self.micro_batch = micro_batch
        self.masks, self.start = ours.masks, ours.start
        self.parameters = {name: parameters[name] for name in ours.masks}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in ours.masks)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=_PEAK, weight_decay=self.recipe.weight_decay, fused=True
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
            found = list(term.samples.batches(term.train, self.micro_batch))
        # What frozen layers returned is known to `ours` alone.
        yield from ((part, images.with_entering(None)) for part, images in found)

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
    """The usual way on the whole model."""
    student = model.to(ours.device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    student.requires_grad_(False)
    vision = student.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, 30_000, (_PROMPT,), generator=generator)
    row = torch.cat([torch.full((tokens,), student.config.image_token_id), prompt]).to(ours.device)

    def through(whole: nn.Module) -> Callable[[ImageBatch], Tensor]:
        def forward(images: ImageBatch) -> Tensor:
            pixels = images.inputs["pixel_values"].to(ours.device, next(whole.parameters()).dtype)
            ids = row.expand(images.size, -1)
            with torch.autocast(ours.device.type, torch.bfloat16, enabled=ours.stack.mixed):
                return whole(input_ids=ids, pixel_values=pixels, logits_to_keep=_PROMPT, use_cache=False).logits

        return forward

    named = dict(student.named_parameters())
    parameters = {name: named[name] for name in ours.start}
    return Plain(ours, {"student": through(student), "teacher": through(teacher)}, divergence, parameters, _MICRO_BATCH)


def check(ways: dict[str, Any]) -> None:
    """Refuse to time what does not do the same work.

    Raises:
        AssertionError: Frozen elements moved, selected ones did not, or losses differ.
    """
    for name, way in ways.items():
        moved = False
        for parameter, mask in way.masks.items():
            value, start = way.parameters[parameter].detach(), way.start[parameter]
            assert torch.equal(value[~mask], start[~mask]), f"{name}: a frozen element of {parameter} moved"
            moved = moved or not torch.equal(value, start)
        assert moved, f"{name}: nothing moved"
    ours, plain = ways["ours"].first_loss, ways["plain loop"].first_loss
    assert ours > 0
    assert abs(ours - plain) <= 0.02 * plain, f"the first loss is {ours} and {plain}"


def measure(ways: dict[str, Any], images: int, steps: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Rates of all ways, measured in turns, and the breakdown of each.

    Args:
        ways: Name -> a way with `steps`.
        images: Images per step.
        steps: Steps per round.
        rounds: How often each way has its turn.
        device: Where they run.

    Returns:
        One row per way, without provenance.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    clock, silent = Stopwatch(device), Silent(device)
    for _ in range(rounds):
        for name, way in ways.items():
            started = clock.now()
            way.steps(steps, silent)
            rates[name].append(images * steps / (clock.now() - started))
    rows = []
    for name, way in ways.items():
        watch = Stopwatch(device)
        started = watch.now()
        way.steps(steps, watch)
        whole = (watch.now() - started) / steps
        stages = {stage: seconds / steps for stage, seconds in watch.seconds.items()}
        stages["other"] = max(whole - sum(stages.values()), 0.0)
        ordered = sorted(rates[name])
        rows.append(
            {
                "provider": name,
                "images_per_second": _digits(statistics.median(ordered)),
                "q20": _digits(ordered[int(0.2 * rounds)]),
                "q80": _digits(ordered[min(int(0.8 * rounds), rounds - 1)]),
                "ratios": {
                    other: _digits(statistics.median(a / b for a, b in zip(rates[name], theirs, strict=True)))
                    for other, theirs in rates.items()
                    if other != name
                },
                "seconds_per_step": {stage: _digits(seconds) for stage, seconds in stages.items()},
                "rounds": rounds,
                "steps_per_round": steps,
            }
        )
    return rows


def _digits(number: float) -> float:
    return float(f"{number:.4g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check, measure, print one JSON line per way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--forget", type=int, help="forget images per step")
    parser.add_argument("--retain", type=int, help="retain images per step")
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--language-layers", type=int, help="of the language model; default: as LLaVA-1.5-7B at vit-l")
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {FILE.name}")
    chosen = parser.parse_args(arguments)
    if chosen.record and chosen.size == "tiny":
        parser.error("--record keeps figures, and those of --size tiny mean nothing")
    device = torch.device(chosen.device)
    torch.set_num_threads(chosen.threads)
    shape = SIZES[chosen.size]
    forget, retain = chosen.forget or shape.forget, chosen.retain or shape.retain
    shape = Size(**{**vars(shape), "forget": forget, "retain": retain})
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = build(place / "model", shape, torch.float32, chosen.language_layers or shape.text_layers)
        sets = [
            draw_images(place / name, name, range(start, start + count), shape.side)
            for name, start, count in (("forget", 0, forget), ("retain", 1000, retain))
        ]
        recipe = Recipe(weight_decay=_DECAY, forget_batch=forget, retain_batch=retain)
        prepared = prepare(Job(place / "model", *sets, [], recipe, device=device, mixed=None))
        parameters = prepared.stack.visual_parameters()
        # Weights that the features do not depend on have no gradient, in no way.
        names = _reached(prepared)
        mask = select(parameters, random_scores(parameters, names, torch.Generator().manual_seed(0)), recipe.density)
        masks = {
            name: (one.to_bool() if isinstance(one, BitMask) else one).to(device) for name, one in mask.selected.items()
        }
        ours = Ours(prepared, masks, shape, mask)
        ways = {"ours": ours, "plain loop": plain_loop(ours), "usual way": usual_way(ours, model)}
        for way in ways.values():
            way.steps(1, Silent(device))
        check(ways)
        rows = measure(ways, forget + retain, chosen.steps, chosen.rounds or _ROUNDS[chosen.size], device)
        for row in rows:
            teacher = _SHOWN * ours.teacher_seconds / (forget + retain) if row["provider"] == "ours" else 0.0
            row["run_seconds"] = _digits(_DRAWN / row["images_per_second"] + teacher)
    visual = sum(parameter.numel() for parameter in parameters.values())
    shared = {
        "schema": SCHEMA,
        "operation": "end_to_end",
        "case": f"{chosen.size}, {forget} + {retain} pictures per step",
        "dtype": prepared.stack.precision,
        "density": recipe.density,
        "visual_parameters": visual,
        "language_parameters": sum(parameter.numel() for parameter in model.parameters()) - visual,
        "implementations": {
            name: choose(name, device, visual).implementation for name in ("feature_distillation", "masked_adamw")
        },
    }
    rows = [{**shared, **row, **provenance(device)} for row in rows]
    for row in rows:
        print(json.dumps(row))
    if chosen.record:
        keep(FILE, rows, IDENTITY)
    return 0


def _reached(prepared: Prepared) -> list[str]:
    stack = prepared.stack
    _, images = next(iter(prepared.forget.batches([0], 1)))
    stack.features(images, (LAYER,))[LAYER].float().square().sum().backward()
    parameters = stack.visual_parameters()
    names = [name for name, parameter in parameters.items() if parameter.grad is not None]
    for parameter in parameters.values():
        parameter.grad = None
    return names


if __name__ == "__main__":
    sys.exit(main())
