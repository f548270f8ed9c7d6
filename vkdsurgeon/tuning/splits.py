"""Which images trials train on, and which none of them ever sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vkdsurgeon.data.samples import Sample
from vkdsurgeon.data.splits import split_validation
from vkdsurgeon.vision_pass.job import Job

SHARE = 0.25
# With fewer, those that are left could not stand for identities at large.
_FEWEST_SUBJECTS = 8


@dataclass(frozen=True)
class TrialSets:
    """The sets of a job, split for trials.

    Attributes:
        job: What trials train on.
        forget: Forget images to measure on.
        keep: Kept images to measure on.
        forget_held_out: Whether no trial trains on `forget`.
        keep_held_out: What no trial trains on of `keep`: `subjects` (nobody on them was seen), `pictures` (other
            images of the same subjects were), or `nothing`.
    """

    job: Job
    forget: tuple[Sample, ...]
    keep: tuple[Sample, ...]
    forget_held_out: bool
    keep_held_out: str


def trial_sets(job: Job) -> TrialSets:
    """Hold a quarter out: of the forget images of each subject, and of the kept subjects.

    What is kept should hold for people who are in no set, so whole subjects are held out of the retain set (of the
    generic one where there is no other); where it names fewer than eight, images of each. Where a subject has too few
    images to spare one, it is measured on what was trained on.
    """
    trained, held = split_validation(tuple(sample.subject for sample in job.forget), SHARE)
    forget = [job.forget[index] for index in held or trained]
    kept: Sequence[Sample] = job.retain or job.generic
    names = list(dict.fromkeys(sample.subject for sample in kept))
    how = "subjects"
    if len(names) >= _FEWEST_SUBJECTS:
        away = set(names[3::4])
        keep = [sample for sample in kept if sample.subject in away]
        rest = [sample for sample in kept if sample.subject not in away]
    else:
        used, spared = split_validation(tuple(sample.subject for sample in kept), SHARE)
        how = "pictures" if spared else "nothing"
        keep, rest = [kept[index] for index in spared or used], [kept[index] for index in used]
    return TrialSets(
        job=replace(
            job,
            forget=[job.forget[index] for index in trained],
            retain=rest if job.retain else job.retain,
            generic=job.generic if job.retain else rest,
        ),
        forget=tuple(forget),
        keep=tuple(keep),
        forget_held_out=bool(held),
        keep_held_out=how,
    )
