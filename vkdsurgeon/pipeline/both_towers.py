"""The tower of images and that of sound in one run: the second goes on from what the first wrote."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import check_output
from vkdsurgeon.checkpoint.provenance import free_record_name
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.names import fitting
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.pipeline.run import run
from vkdsurgeon.training.events import Listener, unheard

_ENDING = ".images"


def run_both(request: Request, listener: Listener) -> UnlearnResult:
    """Forget images in the vision tower, then clips in the audio tower.

    The two share no weight, so neither pass undoes the other. What the first one writes lies in `OUT.images` until the
    second is done, its unchanged weight files as hard links where the file system has them. Of a run that has ended
    the output alone is left: such a run goes on after an interrupt, and is not trained on.

    Args:
        request: What to do; its `modality` does not matter.
        listener: Called with progress events of both.

    Returns:
        The result of the audio tower, whose `image_pass` is that of the vision tower.

    Raises:
        UserError: As `run`, for either tower, before anything is trained; or an option is of one tower alone.
        SurgeryError: As `run`.
    """
    _refuse_what_is_of_one(request)
    images, clips = (replace(request, modality=modality, alone=False) for modality in ("image", "audio"))
    if request.out is None:
        seen = run(images, listener)
        return run(clips, listener).model_copy(update={"image_pass": seen})
    out = request.out.resolve()
    between = out.parent / f"{fitting(out, len(_ENDING))}{_ENDING}"
    if not between.exists():
        _check_clips(clips)
    elif not request.resume:
        raise UserError(
            "an earlier run over both towers has ended half-way", where=between,
            expected="no such directory", remedy="go on from it (`resume`), or remove it",
        )  # fmt: skip
    seen = run(replace(images, out=between, link_untouched=True, journal=_beside(request.journal)), listener)
    heard = run(replace(clips, model=between, drop_stale=False), listener)
    if request.processes.first:
        for rest in (between, seen.journal, heard.journal):
            if rest is not None:
                shutil.rmtree(rest, ignore_errors=True)
    seen, heard = (each.model_copy(update={"journal": None}) for each in (seen, heard))
    return heard.model_copy(update={"image_pass": seen})


def _refuse_what_is_of_one(request: Request) -> None:
    given = {
        "suite": request.suite,
        "recipe section `decoder`": request.recipe.decoder,
        "tower": request.tower,
        "projector": request.projector,
        "replay": request.replay,
        "save_replay": request.save_replay,
        "forget_teacher": request.forget_teacher,
        "retain_teacher": request.retain_teacher,
    }
    for name, value in given.items():
        if value:
            raise UserError(
                "both towers in one run know nothing that is of one tower alone", where=name,
                remedy="leave it out, or make two runs: modality image, then audio on the output",
            )  # fmt: skip


def _check_clips(clips: Request) -> None:
    """Find what is wrong with the output and the clips before hours go into the images."""
    inventory = take_inventory(clips.model)
    if clips.out is not None and not clips.resume:
        check_output(inventory, clips.out, [free_record_name(inventory)])
    run(replace(clips, out=None, resume=False), unheard)


def _beside(journal: Path | None) -> Path | None:
    return None if journal is None else journal.with_name(f"{journal.name}{_ENDING}")
