"""From a request to a verified output directory: read the sets, prepare, operate, write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.output import check_links, output_claimed
from vkdsurgeon.checkpoint.provenance import free_record_name
from vkdsurgeon.checkpoint.write_provenance import write_recorded
from vkdsurgeon.data.media import medium_of
from vkdsurgeon.decoder_pass.record import decoder_facts
from vkdsurgeon.decoder_pass.run import DecoderJob, operate_decoder
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import clear_up, scratch
from vkdsurgeon.files.sealed import check_key
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.pipeline.facts import facts_of
from vkdsurgeon.pipeline.fingerprint import inputs_of
from vkdsurgeon.pipeline.finished import finished, record_of
from vkdsurgeon.pipeline.replay_file import check_new, keeping
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.pipeline.sets import decoder_job_of, job_of, read_sets
from vkdsurgeon.training.events import Event, Listener, unheard
from vkdsurgeon.training.resume.journal import Journal
from vkdsurgeon.training.resume.session import journalled, left_behind
from vkdsurgeon.vision_pass.forecast import forecast
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import Outcome, operate
from vkdsurgeon.vision_pass.teach import teach


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
        check_new(request, request.save_replay)
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
        sets = read_sets(request, folder, listener)
        prepared = prepare(job_of(request, sets))
        decoder = decoder_job_of(request, prepared, sets)
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
    short = "; nothing was written. Use a smaller micro_batch, depth or density (--set), or `dtype=bfloat16`"
    with scratch() as folder, enough_memory(short):
        sets = read_sets(request, folder, listener)
        prepared = prepare(job_of(request, sets))
        decoder = processes.lead(partial(decoder_job_of, request, prepared, sets))
        if request.out is not None:
            _match(prepared, decoder, journal)
        listener(Event.stage("teacher"))
        prepared = teach(prepared)
        keep = keeping(request, prepared)
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
    facts = facts_of(prepared, outcome, changes, request.tag)
    if decoder is not None and decoded is not None:
        facts["decoder"] = decoder_facts(decoder, decoded, bytes.fromhex(facts["salt"]))
    listener(Event.stage("writing"))
    keep()
    try:
        report = write_recorded(
            prepared.stack.inventory,
            changes,
            request.out,
            facts,
            drop_stale=request.drop_stale,
            link_untouched=request.link_untouched,
        )
    except BaseException:
        # Of an output that is not there, nothing sensitive stays, and the next try may write its own.
        if request.save_replay is not None:
            request.save_replay.unlink(missing_ok=True)
        raise
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
