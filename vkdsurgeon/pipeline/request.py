"""What `vkdsurgeon unlearn` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import Given
from vkdsurgeon.data.request import UNTAGGED, RequestTag
from vkdsurgeon.data.suites.split import SuiteSplit
from vkdsurgeon.model.source import ModelSource


@dataclass(frozen=True, kw_only=True)
class Request(ModelSource):
    """`vkdsurgeon unlearn` as asked for.

    `out` None is a dry run, `text` the decoder pass's retain set, `journal` None a directory beside the output. A
    `suite` brings the forget and the retain set in place of files. `drop_stale` leaves out what may hold the same
    weights once more, `follow_links` takes links that leave the model for what they lead to, `link_untouched` makes
    weight files that stay the same hard links. `replay` are files of earlier requests, `save_replay` is this one's, and
    `replay_key` what they are encrypted with. The `tag` goes into the record. `alone` says that the other tower of the
    model is not unlearned in the same run.
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
    alone: bool = True
