"""A split of a benchmark as the sets that unlearning and evaluation take."""

from __future__ import annotations

from pathlib import Path

from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites import clear, fiubench, mllmu, umu
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon.data.suites.split import SuiteSplit, Warn
from vkdsurgeon.errors import UserError

_SUITES = {"mllmu": mllmu, "clear": clear, "umu": umu, "fiubench": fiubench}


def evaluation_sets(
    split: SuiteSplit, scratch: Path, *, seed: int, few_shot: bool, warn: Warn
) -> tuple[list[NamedSet], int]:
    """Read everything that is measured.

    Args:
        split: The split: root, suite and name.
        scratch: An empty folder for images; its owner deletes it.
        seed: Seed of all random draws.
        few_shot: Put demonstrations before questions.
        warn: Called with a message about what is skipped.

    Returns:
        The sets, and the number of demonstrations.

    Raises:
        UserError: Naming file, row and column of what is wrong.
    """
    sets = _SUITES[split.suite].evaluation_sets(split, ImageFolder(scratch), seed, warn)
    for named in sets:
        if not named.records:
            raise UserError(f"the set {named.name} is empty", where=split.root, value=split.split)
    if few_shot:
        from vkdsurgeon.data.suites.fewshot import with_shots

        return with_shots(sets, seed)
    return sets, 0


def unlearning_sets(split: SuiteSplit, scratch: Path) -> tuple[list[Record], list[Record]]:
    """Read the images to forget and to retain.

    Args:
        split: The split: root, suite and name.
        scratch: An empty folder for images; its owner deletes it.

    Raises:
        UserError: Naming file, row and column of what is wrong.
    """
    return _SUITES[split.suite].unlearning_sets(split, ImageFolder(scratch))
