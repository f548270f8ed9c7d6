"""From a request to a verified output directory: read the sets, prepare, operate, write."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import check_output
from vkdsurgeon.checkpoint.provenance import FILE_NAME, provenance_record, set_digest
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.data.pictures import NO_SUBJECT, Picture, pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.plan import Plan
from vkdsurgeon.recipe import Recipe
from vkdsurgeon.result import UnlearnResult
from vkdsurgeon.saliency import layer_shares
from vkdsurgeon.stop import Verdict
from vkdsurgeon.surgery import Job, Outcome, Prepared, operate, prepare, raw_bytes
from vkdsurgeon.unlearn import Step

NO_RETAIN_SET = (
    "no --retain set: retention is distilled on {what} alone. On the built-in miniature this cost 4 points of retain "
    "accuracy and 3 of general vision on forget pictures (docs/method.md); give --retain where you can"
)
NO_SUBJECTS = (
    "no record of the forget set names a subject, so all of it counts as one; where it shows several, name them "
    "(key `subject`, or a sub-folder each), because targets are made per subject"
)


class Listener(Protocol):
    """Hears how a run goes."""

    def planned(self, plan: Plan) -> None:
        """The plan is known; nothing was trained yet."""

    def stage(self, name: str) -> None:
        """A stage starts."""

    def step(self, step: Step) -> None:
        """A training step is done."""

    def verdict(self, verdict: Verdict) -> None:
        """The stop rule looked."""

    def warn(self, text: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True)
class Request:
    """`vkdsurgeon unlearn` as asked for; `out` None is a dry run."""

    model: Path
    forget: Path
    retain: Path | None
    generic: Path | None
    out: Path | None
    recipe: Recipe
    seed: int
    device: torch.device
    dtype: torch.dtype
    tower: str | None = None
    projector: Sequence[str] | None = None
    forget_teacher: Path | None = None
    retain_teacher: Path | None = None


def run(request: Request, listener: Listener) -> UnlearnResult:
    """Do what was asked, or raise and leave nothing behind.

    Args:
        request: What to do.
        listener: Hears of it.

    Raises:
        UserError: Wrong input; found before anything is trained wherever that is possible.
        SurgeryError: Training or writing failed; nothing half-written stays.
    """
    if request.out is not None:
        check_output(take_inventory(request.model), request.out)
    with tempfile.TemporaryDirectory(prefix="vkdsurgeon-generic-") as scratch:
        prepared = prepare(_job(request, Path(scratch), listener))
        listener.planned(prepared.plan)
        if request.out is None:
            return UnlearnResult(prepared.plan, prepared.job.recipe, request.seed)

        def heard(stage: str, event: Step | Verdict | None) -> None:
            if event is None:
                listener.stage(stage)
            elif isinstance(event, Step):
                listener.step(event)
            else:
                listener.verdict(event)

        outcome = operate(prepared, heard)
    facts = _facts(prepared, outcome)
    listener.stage("writing")
    report = write_patched(
        prepared.stack.inventory,
        outcome.changes,
        request.out,
        extra_files={
            _free_name(prepared): lambda digest: provenance_record({**facts, "weights_digest": digest}),
        },
    )
    return UnlearnResult(
        plan=prepared.plan,
        recipe=prepared.job.recipe,
        seed=request.seed,
        out=request.out,
        selected_elements=outcome.mask.count,
        verdicts=outcome.verdicts,
        write=report,
        seconds={**outcome.seconds, "writing": report.seconds},
        provenance=facts,
    )


def _job(request: Request, scratch: Path, listener: Listener) -> Job:
    forget = pictures_of(read_records(request.forget, role="forget"), role="forget")
    retain: list[Picture] = []
    generic: list[Picture] = []
    if request.retain is not None:
        retain = pictures_of(read_records(request.retain, role="retain"), role="retain")
    if request.generic is not None:
        generic = pictures_of(read_records(request.generic, role="generic"), role="generic")
    elif request.retain is None:
        from vkdsurgeon.personas import unpack_generic

        generic = pictures_of(read_records(unpack_generic(scratch), role="generic"), role="generic")
    if len(forget) > 1 and {picture.subject for picture in forget} == {NO_SUBJECT}:
        listener.warn(NO_SUBJECTS)
    if request.retain is None:
        listener.warn(NO_RETAIN_SET.format(what="built-in drawn strangers" if not request.generic else "--generic"))
    return Job(
        model=request.model,
        forget=forget,
        retain=retain,
        generic=generic,
        recipe=request.recipe,
        seed=request.seed,
        device=request.device,
        dtype=request.dtype,
        tower=request.tower,
        projector=request.projector,
        forget_teacher=request.forget_teacher,
        retain_teacher=request.retain_teacher,
    )


def _free_name(prepared: Prepared) -> str:
    """A checkpoint may be operated on more than once; every operation leaves a record of its own."""
    taken = {file.path for file in prepared.stack.inventory.files}
    names = (FILE_NAME, *(FILE_NAME.replace(".json", f".{number}.json") for number in range(2, 1000)))
    return next(name for name in names if name not in taken)


def _facts(prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    job, plan = prepared.job, prepared.plan
    # The salt differs from run to run with what was learnt, and is the same for equal runs.
    hasher = hashlib.sha256(str(job.seed).encode())
    for name in sorted(outcome.changes):
        hasher.update(raw_bytes(outcome.changes[name]))
    salt = hasher.digest()[:16]
    sets = {"forget": job.forget, "retain": job.retain, "generic": job.generic}
    return {
        "method": "visual knowledge distillation, feature mode (reconstruction of arXiv 2512.11325)",
        "model_type": plan.model_type,
        "recipe": job.recipe.model_dump(),
        "seed": job.seed,
        "device": plan.device,
        "dtype": plan.dtype,
        "sets": {
            name: {
                "pictures": len(pictures),
                "subjects": len({picture.subject for picture in pictures}),
                "digest": set_digest((picture.digest for picture in pictures), salt),
            }
            for name, pictures in sets.items()
        },
        "salt": salt.hex(),
        "teacher": asdict(plan.teacher),
        "other_teachers": plan.other_teachers,
        "visual_elements": plan.tower_parameters + plan.projector_parameters,
        "selected_elements": outcome.mask.count,
        "layers": [
            asdict(share)
            for share in layer_shares(outcome.mask, prepared.stack.visual_parameters(), prepared.stack.layer_of)
        ],
        "tensors_with_selected_elements": sorted(outcome.changes),
        "stop_rule": [asdict(verdict) for verdict in outcome.verdicts],
    }
