"""The cases: architecture, drawing style, who is to be forgotten, and the seed of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Literal

import yaml

from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.styles import STYLES
from vkdsurgeon.errors import UserError

FORGET_SETS = ("a", "b", "c")
SEEDS = (0, 1, 2)
SHIPPED = "shipped"
ROLES = Path(__file__).parent / "cases.yaml"

Role = Literal["tuning", "reporting"]


@dataclass(frozen=True)
class Case:
    """One case of the grid.

    Attributes:
        kind: A key of `KINDS`.
        style: A key of `STYLES`.
        forget_set: `a`, `b` or `c`: other people of the same cast.
        seed: Of the training of base and gold.
    """

    kind: str
    style: str
    forget_set: str = "a"
    seed: int = 0

    def __post_init__(self) -> None:
        for where, value, known in (
            ("--kind", self.kind, KINDS),
            ("--style", self.style, STYLES),
            ("--forget-set", self.forget_set, FORGET_SETS),
        ):
            if value not in known:
                raise UserError("there is no such case", where=where, value=value, expected=", ".join(known))
        if self.seed < 0:
            raise UserError("a seed is negative", where="--seed", value=self.seed, expected="0 or more")

    @property
    def name(self) -> str:
        """`KIND-STYLE-FORGETSET-SEED`."""
        return f"{self.kind}-{self.style}-{self.forget_set}-{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where a case lies.

    Attributes:
        name: Of the case.
        base: Checkpoint that saw everybody.
        gold: The same training without images of those to forget.
        records: Directory of the sets.
    """

    name: str
    base: Path
    gold: Path
    records: Path


def grid() -> list[Case]:
    """Every case of the full grid."""
    return [Case(*choice) for choice in product(KINDS, STYLES, FORGET_SETS, SEEDS)]


def place_of(case: Case, root: Path) -> Place:
    """Where a case lies below `root`; cases of one kind, style and seed share their base."""
    world = root / f"{case.kind}-{case.style}"
    return Place(
        case.name,
        world / f"base-{case.seed}",
        world / f"gold-{case.forget_set}-{case.seed}",
        world / f"records-{case.forget_set}",
    )


def minted(root: Path) -> Iterator[Place]:
    """The cases that lie complete below `root`, the shipped one first where it was unpacked."""
    shipped = root / SHIPPED
    if shipped.is_dir():
        yield Place(SHIPPED, shipped / "base", shipped / "gold", shipped / "records")
    for case in grid():
        place = place_of(case, root)
        if all(part.is_dir() for part in (place.base, place.gold, place.records)):
            yield place


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is of one of the patterns, in the shell's way of writing them."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def role_of(name: str, roles: Path = ROLES) -> Role:
    """Whether a case was used to choose settings, or settings are reported on it.

    Raises:
        UserError: The file gives it none or both.
    """
    patterns = yaml.safe_load(roles.read_text(encoding="utf-8"))
    found: list[Role] = [role for role in ("tuning", "reporting") if fits(name, patterns[role])]
    if len(found) != 1:
        raise UserError(
            "a case is for tuning or for reporting, one of them",
            where=roles,
            value=f"{name}: {' and '.join(found) or 'neither'}",
            expected="one list of the two to match it",
        )
    return found[0]
