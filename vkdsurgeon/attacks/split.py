"""How the forget set is divided between attacker and measurement."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vkdsurgeon.config.relearn import RelearnProtocol
from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.data.samples import file_digest
from vkdsurgeon.data.sets import sample
from vkdsurgeon.errors import UserError

Item = TypeVar("Item")
# The attacker has other data than the forget set.
_OUTSIDE = ("benign", "unrelated")


@dataclass(frozen=True)
class Split:
    """Two parts that share no person, no kind of question about a person, or no image, as the protocol says.

    Attributes:
        shown: Records the attacker trains on.
        measured: Records on which the return of knowledge is measured.
    """

    shown: tuple[Record, ...]
    measured: tuple[Record, ...]


def split_records(
    forget: Sequence[Record],
    heldout: Sequence[Record] | None,
    *,
    protocol: RelearnProtocol,
    fraction: float,
    seed: int,
    data: Sequence[Record] | None = None,
) -> Split:
    """Divide a forget set for a relearning attack.

    Args:
        forget: The forget set; only questions about images that were to be forgotten take part, so neither
            `general` nor `text` tasks do.
        heldout: Other views of the same subjects; where given, the measured part is taken from them.
        protocol: `people`: some subjects are shown and the others measured. `pairs`: of every subject some kinds of
            question (tasks) are shown and the others measured. `views`: of every subject some images are shown with
            all their questions, and the same questions are measured on others. `benign`, `unrelated`: `data` is
            shown, no image and no subject of the forget set.
        fraction: Share of subjects, of each subject's tasks or images, or of `data`, that is shown; rounded, at least
            one, and not all unless it is exactly 1. With 1 everything is shown and the held-out views are measured.
        seed: Seed of the random draw.
        data: What the attacker has under `benign` and `unrelated`.

    Raises:
        UserError: Too few subjects, tasks or images to divide, or nothing is left to measure on.
    """
    targets = [record for record in forget if to_forget(record)]
    if not targets:
        raise UserError(
            "the forget set holds nothing that an attack could bring back",
            expected="questions about images in tasks other than general.* and text.*",
        )
    known = {_key(record) for record in targets}
    pool = targets if heldout is None else [record for record in heldout if to_forget(record)]
    if protocol in _OUTSIDE:
        assert data
        return Split(tuple(sample(data, max(1, round(fraction * len(data))), seed)), _measured(pool, known))
    if fraction == 1.0 and heldout is None:
        raise UserError(
            "when all of the forget set is shown, nothing of it is left to measure on",
            where="`fraction`",
            value=1,
            expected="`heldout`, other views of the same subjects",
            remedy="give `heldout`, or a fraction below 1",
        )
    if fraction == 1.0:
        return Split(tuple(targets), _measured(pool, known))
    if protocol == "views":
        seen = _views(targets, fraction, seed, all_may_be_shown=heldout is not None)
        measured = pool if heldout is not None else [record for record in targets if record.media not in seen]
        return Split(tuple(record for record in targets if record.media in seen), _measured(measured, known))
    shown = _people(targets, fraction, seed) if protocol == "people" else _pairs(targets, fraction, seed)
    chosen = tuple(record for record in targets if _key(record) in shown)
    return Split(chosen, _measured(pool, known - shown))


def shares_media(shown: Sequence[Record], measured: Sequence[Record]) -> Record | None:
    """The first measured record whose image was shown as well, told by its bytes; None where there is none.

    Raises:
        UserError: An image cannot be read.
    """
    digests: dict[Path, str] = {}

    def digest(record: Record) -> str | None:
        if record.media is None:
            return None
        if record.media not in digests:
            digests[record.media] = file_digest(record.media, record.source)
        return digests[record.media]

    seen = {digest(record) for record in shown} - {None}
    return next((record for record in measured if digest(record) in seen), None)


def divide_by_media(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Divide a set into halves that share no image (no record, where it has no image).

    Args:
        records: At least two images or records without one.
        seed: Seed of the random draw.

    Raises:
        UserError: There is nothing to divide.
    """
    owners = [record.media or index for index, record in enumerate(records)]
    distinct = list(dict.fromkeys(owners))
    if len(distinct) < 2:
        raise UserError("one image alone cannot be divided between attacker and utility", where="`retain`")
    first = set(random.Random(seed).sample(distinct, len(distinct) // 2))
    halves: tuple[list[Record], list[Record]] = ([], [])
    for owner, record in zip(owners, records, strict=True):
        halves[owner not in first].append(record)
    return halves


def _measured(pool: Sequence[Record], keys: set[tuple[str, str]]) -> tuple[Record, ...]:
    measured = tuple(record for record in pool if _key(record) in keys)
    if not measured:
        raise UserError(
            "the held-out set has no question of the measured part",
            where="`heldout`",
            expected="other views of the forget set's subjects, under the same subjects and tasks",
        )
    return measured


def _key(record: Record) -> tuple[str, str]:
    return record.subject or "", record.task


def _people(targets: Sequence[Record], fraction: float, seed: int) -> set[tuple[str, str]]:
    subjects = sorted({record.subject or "" for record in targets})
    if len(subjects) < 2:
        raise UserError(
            "relearning some people and measuring others needs at least two subjects",
            where="`protocol`",
            value="people",
            expected="a forget set with several values of `subject`",
            remedy="use `protocol=pairs`: some kinds of question are relearned and the others measured",
        )
    drawn = set(_draw(subjects, fraction, random.Random(seed)))
    return {_key(record) for record in targets if (record.subject or "") in drawn}


def _pairs(targets: Sequence[Record], fraction: float, seed: int) -> set[tuple[str, str]]:
    kinds: dict[str, set[str]] = {}
    for record in targets:
        kinds.setdefault(record.subject or "", set()).add(record.task)
    generator = random.Random(seed)
    shown = {
        (subject, task)
        for subject, tasks in sorted(kinds.items())
        if len(tasks) > 1
        for task in _draw(sorted(tasks), fraction, generator)
    }
    if not shown:
        raise UserError(
            "relearning some kinds of question and measuring others needs at least two tasks of one subject",
            where="`protocol`",
            value="pairs",
            expected="tasks such as vqa.name and vqa.city in the forget set",
        )
    return shown


def _views(targets: Sequence[Record], fraction: float, seed: int, *, all_may_be_shown: bool) -> set[Path | None]:
    views: dict[str, dict[Path, None]] = {}
    for record in targets:
        assert record.media is not None
        views.setdefault(record.subject or "", {})[record.media] = None
    generator = random.Random(seed)
    # A subject's only image is shown where others are held out, and measured otherwise.
    drawn = [
        _draw(sorted(images), fraction, generator, most=len(images) if all_may_be_shown else len(images) - 1)
        for _, images in sorted(views.items())
        if all_may_be_shown or len(images) > 1
    ]
    if not drawn:
        raise UserError(
            "relearning some views and measuring others needs at least two images of one subject",
            where="`protocol`",
            value="views",
            remedy="give `heldout`, other views to measure on",
        )
    return {image for images in drawn for image in images}


def _draw(items: Sequence[Item], fraction: float, generator: random.Random, most: int | None = None) -> list[Item]:
    count = min(max(1, round(fraction * len(items))), len(items) - 1 if most is None else most)
    return generator.sample(items, count)
