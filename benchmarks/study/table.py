"""Tables of the results: an overview, every case, means with paired intervals over cases, and which bounds hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.bounds import bounds_table
from benchmarks.study.figures import (
    Case,
    Cell,
    identical,
    markdown,
    measured,
    number,
    order,
    read_cases,
    seconds_of,
)
from benchmarks.study.overview import overview
from vkdsurgeon.evaluation.metrics import bootstrap

_SEED = 0


def tables(file: Path, against: str = "default", recipes: Sequence[str] = ("*",), *, summary: bool = False) -> str:
    """Everything, as Markdown.

    Args:
        file: The rows.
        against: The recipe that the others are paired with, beside base and gold.
        recipes: Patterns of the recipes to show.
        summary: Show the overview alone.

    Raises:
        UserError: There are no rows, or none of such a recipe.
    """
    parts = []
    for role, cases in read_cases(file, recipes).items():
        parts += [f"### Cases for {role}", overview(cases)]
        if not summary:
            parts += [_each(cases), _attacks(cases), _paired(cases, against), bounds_table(cases)]
    return "\n\n".join(part for part in parts if part)


def _each(cases: Sequence[Case]) -> str:
    head = ("case", "seed", "recipe", "name", "attributes (gold)", "general", "retain", "text", "forget ratio",
            "drift", "seconds")  # fmt: skip
    lines = []
    for case in cases:
        for name, row in (("base", case.base), ("gold", case.gold), *case.recipes.items()):
            without = row.get("coincidences", ())
            points = measured(row, without)
            shares, text, tail = number(points["attributes"]), number(points["text"]), ["", "", ""]
            if "unlearning" in row:
                facts = row["unlearning"]
                shares += f" ({number(measured(case.gold, without)['attributes'])})"
                text += ", identical" if identical(case, row) else ""
                met = "" if facts.get("stop_rule_met", True) else " **not met**"
                ratio, drift = (number(facts.get(key), 3) for key in ("forget_ratio", "retain_drift"))
                tail = [f"{ratio}{met}", drift, f"{seconds_of(row):.0f}"]
            known = [number(points[measure]) for measure in ("general", "retain")]
            lines.append([case.name, str(case.seed), name, number(points["name"]), shares, *known, text, *tail])
    return markdown(head, lines)


def _attacks(cases: Sequence[Case]) -> str:
    rows = [row for case in cases for row in (case.gold, *case.recipes.values())]
    names = sorted({name for row in rows for name in row["attacks"]}, key=order)
    restored = any("restore" in row for row in rows)
    if not names and not restored:
        return ""
    head = ("case", "seed", "recipe", *names, *(["original V + P put back: name"] if restored else []))
    lines = []
    for case in cases:
        for recipe, row in (("gold", case.gold), *case.recipes.items()):
            cells = [_attack(row["attacks"].get(name)) for name in names]
            if restored:
                cells.append(number(100 * row["restore"]["name"]) if "restore" in row else "")
            lines.append([case.name, str(case.seed), recipe, *cells])
    told = (
        "AG in points; in brackets right answers before and after the attack, and of retained people after it, percent:"
    )
    return f"{told}\n\n{markdown(head, lines)}"


def _attack(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    shares = [f"{100 * found[name]:.0f}" for name in ("before", "after", "retain_after")]
    return f"{found['ag']:+.1f} ({shares[0]} to {shares[1]}, {shares[2]})"


def _paired(cases: Sequence[Case], against: str) -> str:
    compared = ("base", "gold", against)
    measures = ["name", "restore", "attributes", "general", "retain", "retain_general", "text"]
    seen = {key for case in cases for row in case.recipes.values() for key in row["attacks"]}
    measures += sorted(seen, key=order)
    blocks = ["Means over cases in points, and paired differences with 95 % bootstrap intervals over cases:"]
    for name in dict.fromkeys(name for case in cases for name in case.recipes):
        having = [case for case in cases if name in case.recipes]
        lines = []
        for measure in measures:
            gaps = [_gaps(case, name, measure, against) for case in having]
            known = [(case, gap) for case, gap in zip(having, gaps, strict=True) if gap["own"] is not None]
            if not known:
                continue
            own = [float(gap["own"] or 0.0) for _, gap in known]
            cells = [measure, f"{np.mean(own):.1f}", str(len({case.name for case, _ in known}))]
            cells += [_interval([(case.name, gap[other]) for case, gap in known]) for other in compared]
            lines.append(cells)
        blocks.append(markdown((name, "mean", "cases", *(f"minus {other}" for other in compared)), lines))
    return "\n\n".join(blocks)


def _gaps(case: Case, recipe: str, measure: str, against: str) -> dict[str, Cell]:
    row = case.recipes[recipe]
    without = row.get("coincidences", ())
    own = measured(row, without).get(measure)
    others = {"base": measured(case.base, without), "gold": measured(case.gold, without)}
    rival = case.recipes.get(against)
    if rival is not None and recipe != against:
        others[against] = measured(rival, rival.get("coincidences", ()))
    gaps: dict[str, Cell] = {"own": own}
    for other in ("base", "gold", against):
        theirs = others.get(other, {}).get(measure)
        gaps[other] = None if own is None or theirs is None else own - theirs
    return gaps


def _interval(gaps: Sequence[tuple[str, Cell]]) -> str:
    # Seeds of one case are no independent cases.
    by_case: dict[str, list[float]] = {}
    for case, gap in gaps:
        if gap is not None:
            by_case.setdefault(case, []).append(gap)
    if not by_case:
        return ""
    means = np.array([np.mean(found) for found in by_case.values()])
    if len(means) < 2:
        return f"{means.mean():+.1f}"
    low, high = bootstrap(means, _SEED)
    return f"{means.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
