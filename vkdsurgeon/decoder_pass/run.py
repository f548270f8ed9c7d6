"""The decoder pass from a finished visual pass to changed tensors of the language model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import Parameter

from vkdsurgeon.checkpoint.skeleton import build_skeleton
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.splits import split_validation
from vkdsurgeon.decoder_pass.adversarial_features import FeatureAdversary
from vkdsurgeon.decoder_pass.gate import DecoderVerdict, judge
from vkdsurgeon.decoder_pass.plan import DecoderPlan, estimate_memory, held_in, moments_kind
from vkdsurgeon.decoder_pass.questions import questions_about
from vkdsurgeon.decoder_pass.state import DECODER, DecoderState, kept_of
from vkdsurgeon.decoder_pass.teacher import TeacherOutputs, VisionSwap
from vkdsurgeon.decoder_pass.text_set import TextRetainSet
from vkdsurgeon.decoder_pass.trainer import FORGET, ORIGINAL, RETAIN, TEXT, VisionSwaps, distil, train
from vkdsurgeon.model.decoder_layers import DecoderWeights, check_loaded, find_decoder_weights, recompute, recomputes
from vkdsurgeon.model.device import enough_memory, resolve_dtype
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.multimodal import load_processor, train_only
from vkdsurgeon.model.prompts import Encoder
from vkdsurgeon.model.questions import Prompter, Question
from vkdsurgeon.model.swap_vision import with_vision_of
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener, Step
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.outcome import TrainingOutcome
from vkdsurgeon.training.resume.journal import Journal, Keeper
from vkdsurgeon.training.resume.state import Trainee
from vkdsurgeon.training.saliency import SaliencyMask, choose_mask
from vkdsurgeon.training.sampler import GroupedSampler
from vkdsurgeon.training.write_back import WriteBack
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.teacher import visual_digest

# Questions about forget images that the mask is made from, and held-out questions that the gate asks at most.
_SCORED, _JUDGED = 512, 256


@dataclass(frozen=True)
class DecoderJob:
    """A decoder pass whose weights, questions and cost are known; the language model was not read yet.

    Attributes:
        prepared: The visual pass that comes first.
        recipe: The settings.
        weights: What may move.
        questions: By role: trained on, and held out.
        text: The text retain set.
        plan: The plan of the run.
    """

    prepared: Prepared
    recipe: DecoderRecipe
    weights: DecoderWeights
    questions: dict[str, tuple[list[Question], list[Question]]]
    text: TextRetainSet
    plan: DecoderPlan


@dataclass(frozen=True, kw_only=True)
class DecoderOutcome(TrainingOutcome):
    """The result of a decoder pass.

    Attributes:
        selected: Disk name -> number of selected elements.
        verdict: Whether the gate holds.
    """

    selected: dict[str, int]
    verdict: DecoderVerdict


def prepare_decoder(
    prepared: Prepared, forget: Sequence[Record], keep: Sequence[Record], text: TextRetainSet
) -> DecoderJob:
    """Plan a decoder pass and refuse what cannot work, before anything is trained. Reads headers and the processor.

    Args:
        prepared: The visual pass; its recipe has the section `decoder`.
        forget: The records behind the forget images; their questions are asked.
        keep: The records behind the kept images, likewise.
        text: The text retain set.

    Raises:
        UserError: The language model is quantised or has no weights to patch, the checkpoint's processor does not
            work, or a question does not suit it.
    """
    job, stack = prepared.job, prepared.stack
    recipe = job.recipe.decoder
    assert recipe is not None
    stack.split.refuse_missing()
    weights = find_decoder_weights(stack.inventory, stack.split, recipe.blocks)
    questions: dict[str, tuple[list[Question], list[Question]]] = {}
    for role, images, records in ((FORGET, prepared.forget, forget), (RETAIN, prepared.keep, keep)):
        asked = questions_about(images.samples, records)
        train_on, held_out = split_validation(images.subjects, job.recipe.validation_share)
        questions[role] = _flat(asked, train_on), _flat(asked, held_out or train_on)
    questions[TEXT] = _prompts(text.train), _prompts(text.held_out)
    encoder = Encoder(load_processor(job.model))
    for trained, _ in questions.values():
        encoder.prompt(trained[0].text, trained[0].media, trained[0].source)
    dtype, saves = held_in(recipe, weights, job.device), recomputes(recipe.checkpointing, job.device)
    if job.device_map is not None:
        skeleton = build_skeleton(stack.split.config, dtype=dtype, where=job.model)
        job.device_map.check_trains(skeleton, weights.on_disk, "the decoder pass")
    plan = DecoderPlan(
        dtype=str(dtype).removeprefix("torch."),
        layers=len(weights.layers),
        eligible_elements=weights.elements,
        selected_elements=round(recipe.density * weights.elements),
        forget_questions=sum(map(len, questions[FORGET])),
        retain_questions=sum(map(len, questions[RETAIN])),
        text_prompts=(len(text.train), len(text.held_out)),
        built_in_text=text.built_in,
        steps=recipe.steps,
        checkpointing=saves,
        memory_mib=estimate_memory(stack.inventory, weights, recipe, stack.split.config, dtype, saves),
        warnings=weights.warnings,
    )
    return DecoderJob(prepared, recipe, weights, questions, text, plan)


def operate_decoder(
    job: DecoderJob,
    listen: Listener,
    journal: Journal | None = None,
) -> DecoderOutcome:
    """Teach W what the visual pass made of the forget images. Loads the whole model; no file but the journal's.

    Args:
        job: From `prepare_decoder`, after `operate` made the student of the visual pass.
        listen: Called with every stage, every step and the verdict.
        journal: Where training is saved, and gone on with.

    Raises:
        UserError: The model cannot be loaded, a question does not suit it, or the journal is damaged.
        SurgeryError: The loss is not finite, or the GPU has too little memory.
    """
    settings = "decoder.micro_batch or decoder.density, or decoder.dtype=bfloat16 (--set)"
    with enough_memory(f" for the decoder pass; nothing was written. Use a smaller {settings}"):
        return _operate(job, listen, journal)


def _operate(job: DecoderJob, listen: Listener, journal: Journal | None) -> DecoderOutcome:
    visual, recipe, weights = job.prepared.job, job.recipe, job.weights
    clock = Clock()
    listen(Event.stage("language model"))
    loaded = visual.load_whole(resolve_dtype(job.plan.dtype))
    check_held(loaded.model, weights.on_disk, "the decoder pass", together=True)
    check_loaded(loaded.model, job.prepared.stack.inventory, weights.on_disk)
    parameters = train_only(loaded.model, weights.on_disk)
    if job.plan.checkpointing:
        recompute(loaded, weights.layers)
    clock.lap("decoder model")

    listen(Event.stage("decoder teacher"))
    budget = int(visual.recipe.cache_gib * (1 << 30))
    outputs = TeacherOutputs(
        loaded,
        Prompter(loaded.encoder, budget),
        micro_batch=recipe.micro_batch,
        answer_tokens=recipe.answer_tokens,
        budget_bytes=budget,
    )
    student_vision = partial(with_vision_of, loaded.model, job.prepared.stack.model)
    drawn = _ask_teacher(job, outputs, student_vision)
    start = distil(outputs, FORGET, outputs.answers_to(FORGET, drawn.judged[FORGET]))
    clock.lap("decoder teacher")

    listen(Event.stage("decoder saliency"))
    student = visual_digest(job.prepared.stack)
    kept = kept_of(journal, student)
    mask = _saliency_mask(job, outputs, drawn.scored, parameters) if kept is None else kept.mask(parameters)
    clock.lap("decoder saliency")

    listen(Event.stage("decoder training"))
    moments = moments_kind(recipe, parameters[next(iter(mask.selected))].dtype)
    optimizer = build_optimizer(parameters, mask, step_size=recipe.step_size, max_norm=recipe.clip, moments=moments)
    write_back = WriteBack(parameters, mask, optimizer)
    adversary = FeatureAdversary(reach=recipe.reach, steps=recipe.seek_steps, size=recipe.seek_size, seed=visual.seed)
    vision = VisionSwaps(student_vision, partial(student_vision, blend=adversary), adversary)
    state = DecoderState(Trainee(parameters, mask, optimizer), drawn.samplers, adversary, student)
    if kept is not None:
        state.restore(kept)

    def heard(step: Step) -> None:
        state.stepped(step)
        listen(Event.step(step, "decoder step"))
        keeper.step()

    try:
        with Keeper(journal, DECODER, state.snapshot) as keeper:
            train(outputs, drawn.samplers, vision, optimizer, recipe, heard, done=state.step)
            keeper.save()
    finally:
        optimizer.detach_hooks()
    clock.lap("decoder training")

    changes = write_back.changes(job.prepared.stack.inventory, weights.on_disk)
    with torch.no_grad():
        # The gate measures what is written.
        for name in mask.selected:
            parameters[name].copy_(changes[weights.on_disk[name]])
    found = {
        role: distil(outputs, role, outputs.answers_to(role, questions)) for role, questions in drawn.judged.items()
    }
    verdict = judge(recipe, start, found[FORGET], found[RETAIN], found[TEXT])
    listen(Event("decoder verdict", subject=verdict))
    clock.lap("decoder gate")
    return DecoderOutcome(
        changes=changes,
        mask=mask,
        last=state.last,
        seconds=clock.laps,
        selected={weights.on_disk[name]: chosen.count for name, chosen in mask.selected.items()},
        verdict=verdict,
    )


@dataclass(frozen=True)
class _Drawn:
    samplers: dict[str, GroupedSampler[Question]]
    scored: list[Question]
    judged: dict[str, list[Question]]


def _ask_teacher(job: DecoderJob, outputs: TeacherOutputs, student_vision: VisionSwap) -> _Drawn:
    """Draw the questions of all steps, and let the original W answer them while it still is the original."""
    recipe, seed = job.recipe, job.prepared.job.seed
    sizes = {FORGET: recipe.forget_batch, RETAIN: recipe.retain_batch, TEXT: recipe.text_batch}
    samplers: dict[str, GroupedSampler[Question]] = {}
    judged: dict[str, list[Question]] = {}
    for role, (trained, held_out) in job.questions.items():
        generator = random.Random(f"{seed} {role}")
        # The teacher answers no more questions than the steps can draw.
        drawn = generator.sample(trained, min(sizes[role] * recipe.steps, len(trained)))
        judged[role] = generator.sample(held_out, min(_JUDGED, len(held_out)))
        outputs.write(role, [*drawn, *judged[role]], student_vision if role == FORGET else nullcontext)
        kinds = {question: outputs.kind(role, question) for question in drawn}
        samplers[role] = GroupedSampler(drawn, kinds.__getitem__, generator)
    scored = list(samplers[FORGET].items)
    outputs.note(ORIGINAL, outputs.answers_to(FORGET, scored))
    return _Drawn(samplers, random.Random(seed).sample(scored, min(_SCORED, len(scored))), judged)


def _saliency_mask(
    job: DecoderJob, outputs: TeacherOutputs, scored: Sequence[Question], parameters: Mapping[str, Parameter]
) -> SaliencyMask:
    return choose_mask(
        parameters,
        scored,
        lambda part: distil(outputs, FORGET, outputs.answers_to(FORGET, part), weight=1.0),
        rule=job.recipe.saliency,
        density=job.recipe.density,
        batch=job.recipe.forget_batch,
        generator=torch.Generator().manual_seed(job.prepared.job.seed),
    )


def _flat(asked: Sequence[Sequence[Question]], indices: Sequence[int]) -> list[Question]:
    return [question for index in indices for question in asked[index]]


def _prompts(prompts: Sequence[str]) -> list[Question]:
    return [Question(prompt, None, "the text retain set") for prompt in prompts]
