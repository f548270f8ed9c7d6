"""From a request to a verified output directory: read the sets, prepare, operate, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vkdsurgeon.checkpoint.environment import environment
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.output import check_links, output_claimed
from vkdsurgeon.checkpoint.provenance import free_record_name
from vkdsurgeon.checkpoint.write_provenance import salt_of, set_facts, write_recorded
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.media import medium_of
from vkdsurgeon.data.read import Given, read_records, records_given
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.request import UNTAGGED, RequestTag
from vkdsurgeon.data.samples import NO_SUBJECT, samples_of
from vkdsurgeon.data.suites.read import unlearning_sets
from vkdsurgeon.data.suites.split import SuiteSplit
from vkdsurgeon.decoder_pass.record import decoder_facts
from vkdsurgeon.decoder_pass.run import DecoderJob, operate_decoder, prepare_decoder
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder
from vkdsurgeon.files.directories import clear_up, scratch
from vkdsurgeon.files.sealed import check_key
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.pipeline.fingerprint import inputs_of
from vkdsurgeon.pipeline.finished import finished, record_of
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.training.events import Event, Listener, unheard
from vkdsurgeon.training.resume.journal import Journal
from vkdsurgeon.training.resume.session import journal_of, journalled, left_behind
from vkdsurgeon.training.saliency import layer_shares
from vkdsurgeon.vision_pass.forecast import forecast
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.replay import read_replays, write_replay
from vkdsurgeon.vision_pass.run import Outcome, operate
from vkdsurgeon.vision_pass.teach import teach
from vkdsurgeon.vision_pass.teacher import visual_digest

NO_RETAIN_SET = (
    "no `retain` set: retention is distilled on {what} alone. On pretrained weights, answers about people whom no "
    "image stood for fell by 12 points with 24 strangers and by 1 with 120, which the stop rule cannot see "
    "(docs/studies/method.md); give `retain` where you can, else many strangers"
)
NO_SUBJECTS = (
    "no record of the forget set names a subject, so all of it counts as one; where it shows several, name them "
    "(key `subject`, or a sub-folder each), because targets are made per subject"
)


@dataclass(frozen=True, kw_only=True)
class Request(ModelSource):
    """`vkdsurgeon unlearn` as asked for.

    `out` None is a dry run, `text` the decoder pass's retain set, `journal` None a directory beside the output. A
    `suite` brings the forget and the retain set in place of files. `drop_stale` leaves out what may hold the same
    weights once more, `follow_links` takes links that leave the model for what they lead to, `link_untouched` makes
    weight files that stay the same hard links. `replay` are files of earlier requests, `save_replay` is this one's, and
    `replay_key` what they are encrypted with. The `tag` goes into the record.
    """

    forget: Given | None
    retain: Given | None
    generic: Given | None
    out: Path | None
    recipe: Recipe
    text: Path | None = None
    suite: SuiteSplit | None = None
    forget_teacher: Path | None = None
    retain_teacher: Path | None = None
    journal: Path | None = None
    resume: bool = False
    checkpoint_minutes: float = 1.0
    drop_stale: bool = False
    follow_links: bool = False
    link_untouched: bool = False
    replay: Sequence[Path] = ()
    save_replay: Path | None = None
    replay_key: Path | None = None
    tag: RequestTag = UNTAGGED


def run(request: Request, listener: Listener) -> UnlearnResult:
    """Do what was asked, or raise and leave nothing behind but, where training had begun, the journal to resume from.

    Several processes (`Request.processes`) call it together; the first one alone writes and is heard.

    Args:
        request: What to do.
        listener: Called with progress events.

    Raises:
        UserError: Wrong input; found before anything is trained wherever that is possible.
        SurgeryError: Training or writing failed; nothing half-written stays.
    """
    if request.text is not None and request.recipe.decoder is None:
        raise UserError(
            "a text retain set was given, but no decoder pass uses it",
            where="`text`",
            value=str(request.text),
            remedy="ask for a decoder pass too (--decoder-pass, or the recipe section `decoder`), or leave `text` out",
        )
    if request.modality == "audio" and request.recipe.decoder is not None:
        raise UserError(
            "the decoder pass swaps what a model sees, and cannot swap what it hears",
            where="recipe section `decoder`",
            value="modality audio",
            expected="the recipe without a decoder pass",
        )
    listener = listener if request.processes.first else unheard
    if request.save_replay is not None:
        _check_new(request, request.save_replay)
    if request.replay_key is not None:
        if request.save_replay is None and not request.replay:
            raise UserError(
                "a key was given, but no replay file is read or written",
                where="`replay_key`",
                value=str(request.replay_key),
                expected="`replay` or `save_replay` beside it",
            )
        check_key(request.replay_key)
    inventory = take_inventory(request.model)
    check_links(inventory, request.follow_links)
    if request.out is None:
        return _everywhere(request, _run(request, listener, None))
    # An output that is there without its replay file is not all that was asked for.
    whole = request.save_replay is None or request.save_replay.exists()
    if request.resume and whole and (done := _done_before(request, inventory, listener)) is not None:
        return done
    # Which of them stay the same is known once the run is done.
    linked = inventory.shards if request.link_untouched else ()
    with ExitStack() as held:

        def claim(out: Path) -> Journal:
            held.enter_context(output_claimed(inventory, out, [free_record_name(inventory)], linked=linked))
            return held.enter_context(journalled(request, inventory.size, listener))

        return _everywhere(request, _run(request, listener, request.processes.lead(partial(claim, request.out))))


def _everywhere(request: Request, found: UnlearnResult | None) -> UnlearnResult:
    """The first process's result, in the others as its document tells it."""
    if request.processes.count > 1:
        told = request.processes.told(None if found is None else found.model_dump(mode="json"))
        found = found or UnlearnResult.model_validate(told)
    assert found is not None
    return found


def _done_before(request: Request, inventory: Inventory, listener: Listener) -> UnlearnResult | None:
    """The result of the same run, where it was killed after its output had appeared; its journal goes.

    Everything is read and compared as before training, so that an output of another run is never taken for it.
    """
    out, processes = request.out, request.processes
    assert out is not None
    record = processes.told(processes.lead(partial(record_of, inventory, out)))
    if record is None:
        return None
    with scratch() as folder:
        sets = _read_sets(request, folder, listener)
        prepared = prepare(_job(request, sets))
        decoder = _prepare_decoder(request, prepared, sets)
        dropped = inventory.stale if request.drop_stale else ()
        done = processes.lead(partial(finished, record, out, prepared, decoder, dropped, request.tag))
        if not processes.any(done is not None and done.verdict is not None):
            return None
        if done is None:
            return _everywhere(request, None)
        assert done.verdict is not None
        listener(Event("plan", subject=prepared.plan))
        if decoder is not None:
            listener(Event("decoder plan", subject=decoder.plan))
        listener(Event.note(f"{out} holds the output of this very run, whole and verified: there is nothing to do"))
        left = left_behind(request, lambda salt: inputs_of(prepared, decoder, salt), remove=done.verdict.met)
        clear_up(out)
    return _everywhere(request, done.model_copy(update={"journal": left}))


def _run(request: Request, listener: Listener, journal: Journal | None) -> UnlearnResult | None:
    """The result, which is None in all processes but the first."""
    processes = request.processes
    listener(Event.stage("reading"))
    with scratch() as folder:
        sets = _read_sets(request, folder, listener)
        prepared = prepare(_job(request, sets))
        decoder = processes.lead(partial(_prepare_decoder, request, prepared, sets))
        if request.out is not None:
            _match(prepared, decoder, journal)
        listener(Event.stage("teacher"))
        prepared = teach(prepared)
        keep = _keeping(request, prepared)
        listener(Event("plan", subject=prepared.plan))
        if decoder is not None:
            listener(Event("decoder plan", subject=decoder.plan))
        planned = UnlearnResult(
            plan=prepared.plan,
            recipe=prepared.job.recipe,
            seed=request.seed,
            decoder_plan=None if decoder is None else decoder.plan,
        )
        if request.out is None:
            _look_at_samples(prepared)
            found = forecast(
                prepared,
                link_untouched=request.link_untouched,
                language=() if decoder is None else decoder.weights.on_disk.values(),
                replay=request.save_replay is not None,
            )
            return planned.model_copy(update={"forecast": found}) if processes.first else None

        outcome = operate(prepared, listener, journal)
        return processes.lead(partial(_complete, request, planned, prepared, keep, outcome, decoder, listener, journal))


def _match(prepared: Prepared, decoder: DecoderJob | None, journal: Journal | None) -> None:
    """Refuse a journal of other input, and processes that were given different input.

    Raises:
        UserError: Naming what differs.
    """
    processes = prepared.job.processes
    if processes.count > 1:
        processes.same_input(inputs_of(prepared, None, b""))
    processes.lead(lambda: None if journal is None else journal.match(inputs_of(prepared, decoder, journal.salt)))


def _complete(
    request: Request,
    planned: UnlearnResult,
    prepared: Prepared,
    keep: Callable[[], None],
    outcome: Outcome,
    decoder: DecoderJob | None,
    listener: Listener,
    journal: Journal | None,
) -> UnlearnResult:
    """What is left to do when the vision pass is done: the decoder pass, and writing."""
    assert request.out is not None
    decoded = None if decoder is None else operate_decoder(decoder, listener, journal)
    changes = {**outcome.changes, **({} if decoded is None else decoded.changes)}
    facts = _facts(prepared, outcome, changes, request.tag)
    if decoder is not None and decoded is not None:
        facts["decoder"] = decoder_facts(decoder, decoded, bytes.fromhex(facts["salt"]))
    listener(Event.stage("writing"))
    keep()
    report = write_recorded(
        prepared.stack.inventory,
        changes,
        request.out,
        facts,
        drop_stale=request.drop_stale,
        link_untouched=request.link_untouched,
    )
    if journal is not None and outcome.verdict.met:
        journal.discard()
    return planned.model_copy(
        update={
            "out": request.out,
            "selected_elements": outcome.mask.count,
            "verdicts": outcome.verdicts,
            "choice": outcome.choice,
            "stand_ins": outcome.stand_ins,
            "journal": None if journal is None or not journal.saved else journal.path,
            "decoder_selected_elements": 0 if decoded is None else decoded.mask.count,
            "decoder_verdict": None if decoded is None else decoded.verdict,
            "write": report,
            "seconds": {**outcome.seconds, **({} if decoded is None else decoded.seconds), "writing": report.seconds},
            "provenance": facts,
        }
    )


def _check_new(request: Request, path: Path) -> None:
    """Refuse a replay file that would take the place of anything, or lie where only whole checkpoints do.

    Raises:
        UserError: It would.
    """
    place = path.resolve()
    homes = [request.model, *([] if request.out is None else [request.out, journal_of(request)])]
    if any(home.resolve() in (place, *place.parents) for home in homes):
        raise UserError(
            "the replay file lies in the model, the output or the journal", where="`save_replay`", value=str(path),
            expected="a place of its own",
        )  # fmt: skip
    check_folder(path)
    if any(place == each.resolve() for each in request.replay):
        raise UserError("the replay file would replace one that is replayed", where="`save_replay`", value=str(path))
    if path.exists() and not request.resume:
        raise UserError(
            "the replay file exists", where="`save_replay`", value=str(path), expected="a new file",
            remedy="name another file: whoever is in this one could not be forgotten again",
        )  # fmt: skip


def _keeping(request: Request, prepared: Prepared) -> Callable[[], None]:
    """What writes the replay file that was asked for; made before training, which changes the base's weights.

    Raises:
        UserError: There are no activations to keep.
    """
    if request.save_replay is None:
        return lambda: None
    assert prepared.taught is not None
    terms = prepared.taught.terms
    if terms.activations is None:
        raise UserError(
            "there are no activations to keep: no layer of the tower is frozen, or the cache has no room for what they "
            "return",
            where="`save_replay`",
            value=f"depth {prepared.job.recipe.depth}, cache_gib {prepared.job.recipe.cache_gib}",
            remedy="use a smaller `depth` or a larger `cache_gib`, or leave it out",
        )
    base = visual_digest(prepared.stack)
    return partial(write_replay, request.save_replay, base, terms.forget, terms.activations, request.replay_key)


def _look_at_samples(prepared: Prepared) -> None:
    """Find what the run would stumble over: every image's header, and one of each kind through the processor.

    Raises:
        UserError: An image cannot be read, or the checkpoint's processor refuses it.
    """
    job, known = prepared.job, set()
    for sample in job.processes.share((*job.forget, *job.retain, *job.generic)):
        medium = medium_of(sample.path)
        kind = medium.check(sample.path, where=sample.source)
        if kind not in known:
            known.add(kind)
            opened = medium.open(sample.path, where=sample.source)
            prepared.stack.prepare(opened, f"{sample.source} ({sample.path})")


def assemble(request: Request, folder: Path, listener: Listener) -> Job:
    """The job that a request asks for, its sets read; nothing is loaded yet.

    Args:
        request: What to do.
        folder: Where built-in images are unpacked, if they are needed; must outlive the job.
        listener: Hears doubts about the sets.

    Raises:
        UserError: A set is wrong.
    """
    return _job(request, _read_sets(request, folder, listener))


@dataclass(frozen=True)
class _Sets:
    forget: list[Record]
    retain: list[Record]
    generic: list[Record]


def _read_sets(request: Request, folder: Path, listener: Listener) -> _Sets:
    forget, retain = _read_own(request) if request.suite is None else unlearning_sets(request.suite, folder)
    generic: list[Record] = []
    if request.generic is not None:
        generic = records_given(request.generic, role="generic")
    elif not retain and request.modality == "audio":
        raise UserError(
            "without `retain` and `generic` there are no clips to keep, and none ship with the package",
            where="`retain`",
            expected="clips of other speakers",
        )
    elif not retain:
        from vkdsurgeon.data.miniature import unpack_generic

        generic = read_records(unpack_generic(folder), role="generic")
    subjects = {record.subject or NO_SUBJECT for record in forget if record.media is not None}
    if len({record.media for record in forget}) > 1 and subjects == {NO_SUBJECT}:
        listener(Event.warning(NO_SUBJECTS))
    if not retain:
        what = "built-in drawn strangers" if not request.generic else "`generic`"
        listener(Event.warning(NO_RETAIN_SET.format(what=what)))
    return _Sets(forget, retain, generic)


def _read_own(request: Request) -> tuple[list[Record], list[Record]]:
    if request.forget is None:
        raise UserError("no forget set was given", where="`forget`")
    retain = [] if request.retain is None else records_given(request.retain, role="retain")
    return records_given(request.forget, role="forget"), retain


def _prepare_decoder(request: Request, prepared: Prepared, sets: _Sets) -> DecoderJob | None:
    if prepared.job.recipe.decoder is None:
        return None
    text = read_text_retain_set(request.text, request.seed)
    return prepare_decoder(prepared, sets.forget, [*sets.retain, *sets.generic], text)


def _job(request: Request, sets: _Sets) -> Job:
    return Job(
        forget=samples_of(sets.forget, role="forget", modality=request.modality),
        retain=samples_of(sets.retain, role="retain", modality=request.modality) if sets.retain else [],
        generic=samples_of(sets.generic, role="generic", modality=request.modality) if sets.generic else [],
        recipe=request.recipe,
        forget_teacher=request.forget_teacher,
        retain_teacher=request.retain_teacher,
        replay=read_replays(request.replay, request.replay_key) if request.replay else None,
        **request.source,
    )


def _facts(
    prepared: Prepared, outcome: Outcome, changes: Mapping[str, torch.Tensor], tag: RequestTag
) -> dict[str, Any]:
    job, plan = prepared.job, prepared.plan
    salt = salt_of(job.seed, changes)
    replay = (
        None
        if job.replay is None
        else {
            "pictures": plan.replayed_pictures,
            "subjects": plan.replayed_subjects,
            "digest": job.replay.digest,
        }
    )
    sizes = {name: value.numel() for name, value in prepared.stack.visual_parameters().items()}
    return {
        "request": asdict(tag),
        "method": "visual knowledge distillation, feature mode (reconstruction of arXiv 2512.11325)",
        "model_type": plan.model_type,
        "modality": job.modality,
        "recipe": job.recipe.model_dump(),
        "seed": job.seed,
        "device": plan.device,
        "dtype": plan.dtype,
        "environment": environment(job.device, plan.tower_parameters + plan.projector_parameters, job.processes.count),
        "sets": set_facts({"forget": job.forget, "retain": job.retain, "generic": job.generic}, salt),
        "salt": salt.hex(),
        "teacher": asdict(plan.teacher),
        "other_teachers": plan.other_teachers,
        "visual_elements": plan.tower_parameters + plan.projector_parameters,
        "selected_elements": outcome.mask.count,
        "layers": [asdict(share) for share in layer_shares(outcome.mask, sizes, prepared.stack.layer_of)],
        "tensors_with_selected_elements": sorted(outcome.changes),
        "stop_rule": [asdict(verdict) for verdict in outcome.verdicts],
        "stop_rule_written": asdict(outcome.choice),
        "targets": {layer: asdict(reading) for layer, reading in outcome.readings.items()},
        **({} if replay is None else {"replay": replay}),
        "step_size": None if outcome.step_size is None else asdict(outcome.step_size),
    }
