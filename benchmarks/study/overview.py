"""All recipes side by side: one line each, over the cases that they share; and how long they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.study.attacks import PROTOCOLS, RATES, STEPS, Attack
from benchmarks.study.figures import Case, Cell, Row, markdown, measured, number, seconds_of, shared_by

_ANSWERS = ("name", "attributes", "general", "retain", "text")
_ATTACKS = {f"{protocol}{steps}": Attack(protocol, steps, RATES[0]).name for protocol in PROTOCOLS for steps in STEPS}


def overview(cases: Sequence[Case]) -> str:
    """Both tables; empty where nothing was unlearned."""
    names = list(dict.fromkeys(name for case in cases for name in case.recipes))
    if not names:
        return ""
    shared = shared_by(cases)
    chosen = {name: shared or [case for case in cases if name in case.recipes] for name in names}
    if shared:
        over = f"over what all these recipes were measured on, {_count(shared)}"
    else:
        over = "over what each was measured on, **not the same for all**"
    return f"Means {over}.\n{_means(chosen, shared)}\n\nTime that unlearning took there:\n\n{_times(chosen)}"


def _count(cases: Sequence[Case]) -> str:
    number_of, seeds = len({case.name for case in cases}), len({case.seed for case in cases})
    return f"{number_of} case{'s' * (number_of > 1)}" + (f" and {seeds} seeds" if seeds > 1 else "")


def _means(chosen: Mapping[str, Sequence[Case]], shared: Sequence[Case]) -> str:
    rows: dict[str, list[Row]] = {}
    if shared:
        rows = {"base": [case.base for case in shared], "gold": [case.gold for case in shared]}
    rows |= {name: [case.recipes[name] for case in cases] for name, cases in chosen.items()}
    points = {name: [measured(row, row.get("coincidences", ())) for row in found] for name, found in rows.items()}
    columns = {name: name for name in _ANSWERS} | _ATTACKS | {"restore": "restore"}
    columns = {
        head: key
        for head, key in columns.items()
        if any(each.get(key) is not None for found in points.values() for each in found)
    }
    lines = []
    for name, found in points.items():
        cells = [_mean([each.get(key) for each in found]) for key in columns.values()]
        seconds = _median(seconds_of(row) for row in rows[name] if "unlearning" in row)
        lines.append([name, str(len(found)), *cells, seconds])
    told = (
        f"Percent of right answers; AG in points after 15 and 60 steps at peak {RATES[0]:g}; `restore`: names with the "
        "original V and P put back; median of wall seconds. In brackets: how many rows have it, where not all do."
    )
    return f"{told}\n\n{markdown(('recipe', 'rows', *columns, 'seconds'), lines)}"


def _times(chosen: Mapping[str, Sequence[Case]]) -> str:
    lines = []
    for name, cases in chosen.items():
        rows = [case.recipes[name] for case in cases]
        facts = [row["unlearning"] for row in rows]
        wall, steps = [seconds_of(row) for row in rows], [each["steps"] for each in facts]
        # Only the decoder pass has the one, and rows from before it was measured lack the other.
        some = [_median(each[key] for each in facts if key in each) for key in ("decoder_seconds", "cpu_seconds")]
        lines.append([name, str(len(rows)), _median(wall), _range(wall), *some, _median(steps), _range(steps)])
    head = ("recipe", "rows", "wall seconds, median", "least to most", "of them the decoder pass, median",
            "processor seconds, median", "steps, median", "least to most")  # fmt: skip
    return markdown(head, lines)


def _mean(values: Sequence[Cell]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{np.mean(known):.1f}" + (f" ({len(known)})" if len(known) < len(values) else "")


def _median(values: Iterable[float]) -> str:
    known = list(values)
    return number(float(np.median(known)), 0) if known else ""


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"
