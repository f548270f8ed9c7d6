"""Which bounds hold, case by case."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.study.figures import Case, Cell, Row, decoder_passed, edits_language, identical, markdown, measured

# Points of tolerance: names above gold; answers about retained people and of general vision below base.
NAME, RETAIN, GENERAL = 3, 2, 3
# Attacks of the bounds: the tool's default budget, and four times as many steps.
_PEOPLE, _BENIGN = ("people/15/0.0003", "people/60/0.0003"), ("benign/15/0.0003", "benign/60/0.0003")
_PAIRS = "pairs/60/0.0003"
# Points are rounded shares.
_ROUNDING = 1e-9


def bounds_table(cases: Sequence[Case]) -> str:
    """Every row, and what was asked of it; columns that nobody is asked for are left out."""
    found = [(case, name, bounds(case, row)) for case in cases for name, row in case.recipes.items()]
    if not found:
        return ""
    heads = [head for head in found[0][2] if any(cells[head] for _, _, cells in found)]
    lines = [[case.name, str(case.seed), name, *(cells[head] for head in heads)] for case, name, cells in found]
    return "Bounds; what is not in bounds is bold:\n\n" + markdown(("case", "seed", "recipe", *heads), lines)


def bounds(case: Case, row: Row) -> dict[str, str]:
    """What was asked of a row, and its value, bold where it is out of bounds; empty where it is not asked."""
    mine, base, gold = measured(row), measured(case.base), measured(case.gold)
    nobody = (gold["name"] or 0.0) + NAME
    edits, passed = edits_language(row), decoder_passed(row)
    pairs = gold.get(_PAIRS)
    return {
        f"name ≤ gold + {NAME}": _most(mine["name"], nobody),
        f"restore name ≤ gold + {NAME}": _most(mine["restore"], nobody) if "restore" in mine else "",
        f"retain ≥ base − {RETAIN}": _least(mine["retain"], (base["retain"] or 0.0) - RETAIN),
        f"general ≥ base − {GENERAL}": _least(mine["general"], (base["general"] or 0.0) - GENERAL),
        "text identical": "" if edits else "yes" if identical(case, row) else "**no**",
        "edited W: text ≥ base − 1": _least(mine["text"], (base["text"] or 0.0) - 1) if edits else "",
        **{f"{name} ≤ 1.3": _most(mine.get(name), 1.3) for name in _PEOPLE},
        **{f"{name} ≤ 5": _most(mine.get(name), 5.0) for name in _BENIGN},
        f"{_PAIRS} ≤ gold + 15": _most(mine.get(_PAIRS), None if pairs is None else pairs + 15) if passed else "",
    }


def _most(value: Cell, bound: Cell) -> str:
    if value is None or bound is None:
        return "not measured"
    return f"{value:.1f}" if value <= bound + _ROUNDING else f"**{value:.1f}**"


def _least(value: Cell, bound: float) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1f}" if value >= bound - _ROUNDING else f"**{value:.1f}**"
