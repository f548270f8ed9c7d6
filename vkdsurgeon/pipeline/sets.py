"""The sets that a request names, read, and the jobs that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.data.read import read_records, records_given
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import NO_SUBJECT, samples_of
from vkdsurgeon.data.suites.read import unlearning_sets
from vkdsurgeon.decoder_pass.run import DecoderJob, prepare_decoder
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.replay_format import read_replays

NO_RETAIN_SET = (
    "no `retain` set: retention is distilled on {what} alone. On pretrained weights, answers about people whom no "
    "image stood for fell by 12 points with 24 strangers and by 1 with 120, which the stop rule cannot see "
    "(docs/studies/method.md); give `retain` where you can, else many strangers"
)
OTHER_TOWER = (
    "{count} records of the forget set are not for this tower (modality {modality}), and nothing in them is forgotten; "
    "modality both is for models that see and hear"
)
NO_SUBJECTS = (
    "no record of the forget set names a subject, so all of it counts as one; where it shows several, name them "
    "(key `subject`, or a sub-folder each), because targets are made per subject"
)


@dataclass(frozen=True)
class Sets:
    """Records by the set that they came in."""

    forget: list[Record]
    retain: list[Record]
    generic: list[Record]


def assemble(request: Request, folder: Path, listener: Listener) -> Job:
    """The job that a request asks for, its sets read; nothing is loaded yet.

    Args:
        request: What to do.
        folder: Where built-in images are unpacked, if they are needed; must outlive the job.
        listener: Hears doubts about the sets.

    Raises:
        UserError: A set is wrong.
    """
    return job_of(request, read_sets(request, folder, listener))


def read_sets(request: Request, folder: Path, listener: Listener) -> Sets:
    """Read what a request names.

    Args:
        request: What to do.
        folder: Where built-in images are unpacked, if they are needed.
        listener: Hears doubts about the sets.

    Raises:
        UserError: A set is wrong.
    """
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
    other = [record for record in forget if record.media is not None and getattr(record, request.modality) is None]
    if other and request.alone:
        listener(Event.warning(OTHER_TOWER.format(count=len(other), modality=request.modality)))
    if not retain:
        what = "built-in drawn strangers" if not request.generic else "`generic`"
        listener(Event.warning(NO_RETAIN_SET.format(what=what)))
    return Sets(forget, retain, generic)


def _read_own(request: Request) -> tuple[list[Record], list[Record]]:
    if request.forget is None:
        raise UserError("no forget set was given", where="`forget`")
    retain = [] if request.retain is None else records_given(request.retain, role="retain")
    return records_given(request.forget, role="forget"), retain


def job_of(request: Request, sets: Sets) -> Job:
    """The vision pass that a request asks for."""
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


def decoder_job_of(request: Request, prepared: Prepared, sets: Sets) -> DecoderJob | None:
    """The decoder pass that a request asks for, prepared; None where it asks for none."""
    if prepared.job.recipe.decoder is None:
        return None
    text = read_text_retain_set(request.text, request.seed)
    return prepare_decoder(prepared, sets.forget, [*sets.retain, *sets.generic], text)
