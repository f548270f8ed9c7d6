"""The replay file that a request asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.training.resume.session import journal_of
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.replay_format import write_replay
from vkdsurgeon.vision_pass.teacher import visual_digest


def check_new(request: Request, path: Path) -> None:
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


def keeping(request: Request, prepared: Prepared) -> Callable[[], None]:
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
