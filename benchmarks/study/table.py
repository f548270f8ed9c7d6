"""Tables of the results: every case, means with paired intervals over cases, and the bounds that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import provenance
from benchmarks.study.measure import attributes
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.metrics import bootstrap

Row = dict[str, Any]
Cell = float | None

_SEED = 0
# Attacks of the bounds: the tool's default budget, and four times as many steps.
_PEOPLE, _BENIGN = ("people/15/0.0003", "people/60/0.0003"), ("benign/15/0.0003", "benign/60/0.0003")


@dataclass(frozen=True, eq=False)
class Case:
    """All rows of one case and unlearning seed."""

    name: str
    seed: int
    base: Row
    gold: Row
    recipes: Mapping[str, Row]


def tables(file: Path, against: str = "default") -> str:
    """Everything, as Markdown.

    Args:
        file: The rows.
        against: The recipe that the others are paired with, beside base and gold.

    Raises:
        UserError: There are no rows.
    """
    rows = provenance.read(file)
    if not rows:
        raise UserError("there are no results", where=file, remedy="measure first: python -m benchmarks.study run")
    latest = {(row["case"], row["recipe"], row["seed"]): row for row in rows}
    parts = []
    for role in ("reporting", "tuning"):
        cases = _cases([row for row in latest.values() if row["role"] == role])
        if cases:
            parts += [f"### Cases for {role}", _each(cases), _attacks(cases), _summary(cases, against), _bounds(cases)]
    return "\n\n".join(part for part in parts if part)


def _cases(rows: Sequence[Row]) -> list[Case]:
    found: list[Case] = []
    for name in sorted({row["case"] for row in rows}):
        mine = [row for row in rows if row["case"] == name]
        base = next((row for row in mine if row["recipe"] == "base"), None)
        for seed in sorted({row["seed"] for row in mine if row["recipe"] != "base"}):
            of_seed = {row["recipe"]: row for row in mine if row["seed"] == seed and row["recipe"] != "base"}
            gold = of_seed.pop("gold", None)
            if base is not None and gold is not None:
                found.append(Case(name, seed, base, gold, of_seed))
    return found


def measured(row: Row, without: Sequence[str] = ()) -> dict[str, Cell]:
    """Points of one row: answers, and AG per attack.

    Args:
        row: Of a recipe, of base or of gold.
        without: Attributes that do not count, because a stand-in shares them with the forgotten person by chance.
    """
    values = row["values"]
    points: dict[str, Cell] = {
        name: 100 * values[name] for name in ("name", "general", "retain", "retain_general", "text")
    }
    share = attributes(values["attribute_hits"], without)
    points["attributes"] = None if share is None else 100 * share
    return points | {name: attack["ag"] for name, attack in row["attacks"].items()}


def seconds_of(row: Row) -> float:
    """Wall seconds of all of unlearning."""
    facts = row["unlearning"]
    # Older rows tell of the two passes alone.
    total = facts.get("seconds")
    return float(facts["visual_seconds"] + facts.get("decoder_seconds", 0) if total is None else total)


def identical(case: Case, row: Row) -> bool:
    """Whether the language model's tensors and all that it says to text are those of base."""
    same = row["values"]["text_digest"] == case.base["values"]["text_digest"]
    return bool(same and row["unlearning"]["language_tensors_identical"])


def _each(cases: Sequence[Case]) -> str:
    head = ("case", "seed", "recipe", "name", "attributes (gold)", "general", "retain", "text", "forget ratio",
            "drift", "seconds")  # fmt: skip
    lines = []
    for case in cases:
        for name, row in (("base", case.base), ("gold", case.gold), *case.recipes.items()):
            without = row.get("coincidences", ())
            points = measured(row, without)
            shares, text, tail = _number(points["attributes"]), _number(points["text"]), ["", "", ""]
            if "unlearning" in row:
                facts = row["unlearning"]
                shares += f" ({_number(measured(case.gold, without)['attributes'])})"
                text += ", identical" if identical(case, row) else ""
                met = "" if facts.get("stop_rule_met", True) else " **not met**"
                ratio, drift = (_number(facts.get(key), 3) for key in ("forget_ratio", "retain_drift"))
                tail = [f"{ratio}{met}", drift, f"{seconds_of(row):.0f}"]
            known = [_number(points[measure]) for measure in ("general", "retain")]
            lines.append([case.name, str(case.seed), name, _number(points["name"]), shares, *known, text, *tail])
    return _markdown(head, lines)


def _attacks(cases: Sequence[Case]) -> str:
    rows = [row for case in cases for row in (case.gold, *case.recipes.values())]
    names = sorted({name for row in rows for name in row["attacks"]}, key=_order)
    restored = any("restore" in row for row in rows)
    if not names and not restored:
        return ""
    head = ("case", "seed", "recipe", *names, *(["original V + P put back: name"] if restored else []))
    lines = []
    for case in cases:
        for recipe, row in (("gold", case.gold), *case.recipes.items()):
            cells = [_attack(row["attacks"].get(name)) for name in names]
            if restored:
                cells.append(_number(100 * row["restore"]["name"]) if "restore" in row else "")
            lines.append([case.name, str(case.seed), recipe, *cells])
    told = (
        "AG in points; in brackets right answers before and after the attack, and of retained people after it, percent:"
    )
    return f"{told}\n\n{_markdown(head, lines)}"


def _attack(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    shares = [f"{100 * found[name]:.0f}" for name in ("before", "after", "retain_after")]
    return f"{found['ag']:+.1f} ({shares[0]} to {shares[1]}, {shares[2]})"


def _summary(cases: Sequence[Case], against: str) -> str:
    compared = ("base", "gold", against)
    measures = ["name", "attributes", "general", "retain", "retain_general"]
    seen = {key for case in cases for row in case.recipes.values() for key in row["attacks"]}
    measures += sorted(seen, key=_order)
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
        blocks.append(_markdown((name, "mean", "cases", *(f"minus {other}" for other in compared)), lines))
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


def _bounds(cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        for name, row in case.recipes.items():
            lines.append([case.name, str(case.seed), name, *(_verdict(*bound) for bound in bounds(case, row))])
    head = ("case", "seed", "recipe", *(bound[0] for bound in bounds(cases[0], cases[0].gold)))
    return "Bounds; what is not in bounds is bold:\n\n" + _markdown(head, lines)


def bounds(case: Case, row: Row) -> list[tuple[str, Cell, float, bool]]:
    """What was asked of the default: what, the value, the bound, and whether the bound is from above."""
    mine, base, gold = measured(row), measured(case.base), measured(case.gold)
    same = "unlearning" not in row or identical(case, row)
    return [
        ("name ≤ gold + 3", mine["name"], (gold["name"] or 0.0) + 3, True),
        ("retain ≥ base − 2", mine["retain"], (base["retain"] or 0.0) - 2, False),
        ("general ≥ base − 3", mine["general"], (base["general"] or 0.0) - 3, False),
        ("text identical", 100.0 * same, 100.0, False),
        *((f"{name} ≤ 1.3", mine.get(name), 1.3, True) for name in _PEOPLE),
        *((f"{name} ≤ 5", mine.get(name), 5.0, True) for name in _BENIGN),
    ]


def _verdict(name: str, value: Cell, bound: float, most: bool) -> str:
    if value is None:
        return "not measured"
    # Points are rounded shares.
    kept = value <= bound + 1e-9 if most else value >= bound - 1e-9
    shown = ("yes" if value == 100 else "no") if name == "text identical" else f"{value:.1f}"
    return shown if kept else f"**{shown}**"


def _order(name: str) -> tuple[int, int, float]:
    protocol, steps, lr = name.split("/")
    return ("pairs", "people", "benign", "all").index(protocol), int(steps), float(lr)


def _number(value: Cell, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [f"| {' | '.join(head)} |", "|" + "-|" * len(head), *(f"| {' | '.join(line)} |" for line in lines)]
    )
