"""What the charts show: points of every case, and means over the cases that all recipes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.study.attacks import RATES, STEPS, Attack, Protocol
from benchmarks.study.figures import Case, Row, measured, shared_by

GOLD = "gold"
_FIRST = ("default", "robust", "decoder")

Point = tuple[float, float]
Steps = Mapping[int, float]


@dataclass(frozen=True)
class Cloud:
    """What a recipe left and what it cost.

    Attributes:
        recipe: Its name.
        points: Of every case, a mean over its unlearning seeds: names above gold, and a measure above base.
        mean: Over the shared cases; None where there are none.
    """

    recipe: str
    points: tuple[Point, ...]
    mean: Point | None


@dataclass(frozen=True)
class Curve:
    """What came back over the attacker's steps.

    Attributes:
        recipe: Its name.
        cases: Percent of right answers by steps, of every case, means over its unlearning seeds.
        mean: Over the shared cases, at those steps that all of them have.
    """

    recipe: str
    cases: tuple[Steps, ...]
    mean: Steps


@dataclass(frozen=True)
class Panel:
    """One protocol.

    Attributes:
        protocol: Its name.
        curves: Gold first, then the recipes that were attacked so.
        shared: Cases in the means.
    """

    protocol: Protocol
    curves: tuple[Curve, ...]
    shared: int


def recipes_of(cases: Sequence[Case]) -> list[str]:
    """All recipes, the presets first, in an order that does not depend on when they were measured."""
    names = {name for case in cases for name in case.recipes}
    return [name for name in _FIRST if name in names] + sorted(names - set(_FIRST))


def clouds(cases: Sequence[Case], measure: str) -> list[Cloud]:
    """Gold and every recipe.

    Args:
        cases: All of them.
        measure: `retain` or `general`.
    """
    shared = shared_by(cases)
    found = []
    for name in (GOLD, *recipes_of(cases)):
        own = {case: _point(case, row, measure) for case in cases if (row := _row(case, name))}
        common = _by_case({case: own[case] for case in shared})
        found.append(Cloud(name, tuple(_by_case(own)), _middle(common) if common else None))
    return found


def panel(cases: Sequence[Case], protocol: Protocol) -> Panel | None:
    """One protocol at the lowest peak learning rate; None where no recipe was attacked so."""
    attacks = {steps: Attack(protocol, steps, RATES[0]).name for steps in STEPS}
    shares: dict[str, dict[Case, Steps]] = {
        name: {case: each for case in cases if (row := _row(case, name)) and (each := _shares(row, attacks))}
        for name in (GOLD, *recipes_of(cases))
    }
    shares = {name: found for name, found in shares.items() if found}
    if not set(shares) - {GOLD}:
        return None
    longest = max(steps for known in shares.values() for each in known.values() for steps in each)
    shared = [case for case in cases if all(longest in found.get(case, {}) for found in shares.values())]
    curves = []
    for name, found in shares.items():
        common = _steps_by_case({case: found[case] for case in shared})
        curves.append(Curve(name, tuple(_steps_by_case(found)), _mean(common)))
    return Panel(protocol, tuple(curves), len({case.name for case in shared}))


def _row(case: Case, name: str) -> Row | None:
    return case.gold if name == GOLD else case.recipes.get(name)


def _point(case: Case, row: Row, measure: str) -> Point:
    mine, base, gold = measured(row), measured(case.base), measured(case.gold)
    return (mine["name"] or 0.0) - (gold["name"] or 0.0), (mine[measure] or 0.0) - (base[measure] or 0.0)


def _by_case(points: Mapping[Case, Point]) -> list[Point]:
    # Seeds of one case are no independent cases.
    names = dict.fromkeys(case.name for case in points)
    return [_middle([point for case, point in points.items() if case.name == name]) for name in names]


def _middle(points: Sequence[Point]) -> Point:
    x, y = np.mean(points, axis=0)
    return float(x), float(y)


def _shares(row: Row, attacks: Mapping[int, str]) -> dict[int, float]:
    known = {steps: row["attacks"][name] for steps, name in attacks.items() if name in row["attacks"]}
    if not known:
        return {}
    before = next(iter(known.values()))["before"]
    return {0: 100 * before} | {steps: 100 * attack["after"] for steps, attack in known.items()}


def _steps_by_case(found: Mapping[Case, Steps]) -> list[Steps]:
    names = dict.fromkeys(case.name for case in found)
    return [_mean([steps for case, steps in found.items() if case.name == name]) for name in names]


def _mean(each: Sequence[Steps]) -> Steps:
    """At the steps that all have."""
    if not each:
        return {}
    steps = sorted(set.intersection(*(set(found) for found in each)))
    return {step: float(np.mean([found[step] for found in each])) for step in steps}
