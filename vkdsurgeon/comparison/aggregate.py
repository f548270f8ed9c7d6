"""From finished runs to the rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vkdsurgeon.comparison.datasets import Case
from vkdsurgeon.comparison.methods import ComparedMethod
from vkdsurgeon.results.comparison import Cell, Row
from vkdsurgeon.results.comparison_columns import BASE, COSTS, FORGET, GOLD, SCORE, SHARES, ag_of, ordered, score

# Below this distance of base and gold a forget metric says nothing.
_TOO_NEAR = 0.1


def scored(cells: Sequence[Cell], case: Case) -> list[Cell]:
    """The cells with their scores: each is held against gold under the same seed, and against base."""
    base = next(cell for cell in cells if cell.name == BASE)
    golds = {cell.seed: cell.values for cell in cells if cell.name == GOLD}

    def of(cell: Cell) -> Cell:
        if cell.name == BASE:
            return cell
        value = score(cell.values, base.values, golds.get(cell.seed), case.protocols, case.asked.scopes)
        return cell if value is None else cell.model_copy(update={"values": {**cell.values, SCORE: value}})

    return [of(cell) for cell in cells]


def titles_of(methods: Sequence[ComparedMethod]) -> dict[str, str]:
    """Row titles for the table."""
    titles = {each.name: each.title for each in methods}
    return titles | {BASE: "the model as given", GOLD: "a model that never saw the forget set"}


def row(name: str, cells: Sequence[Cell], titles: Mapping[str, str]) -> Row:
    """One line: means over the seeds, smallest and largest."""
    means: dict[str, float | None] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for metric in ordered(name for cell in cells for name in cell.values):
        found = [value for cell in cells if (value := cell.values.get(metric)) is not None]
        means[metric] = sum(found) / len(found) if found else None
        if found:
            low[metric], high[metric] = min(found), max(found)
    return Row(name=name, title=titles[name], seeds=[cell.seed for cell in cells], values=means, low=low, high=high)


def known_values(case: Case, names: Sequence[str]) -> list[str]:
    """Everything that gates may name."""
    attacks = [ag_of(protocol, scope) for protocol in case.protocols for scope in (*case.asked.scopes, None)]
    columns = [*SHARES, *attacks, SCORE, *COSTS]
    return [f"{name}.{column}" for name in names for column in columns]


def comparison_warnings(cells: Sequence[Cell]) -> list[str]:
    """Warnings about how the numbers may be read."""
    found = []
    base = next(cell for cell in cells if cell.name == BASE)
    gold = next((cell for cell in cells if cell.name == GOLD), None)
    before, ideal = (None if cell is None else cell.values.get(FORGET) for cell in (base, gold))
    if before is not None and ideal is not None and before - ideal < _TOO_NEAR:
        found.append(
            f"base ({before:.3f}) and gold ({ideal:.3f}) hardly differ on the forget set, so forgetting cannot be told "
            "from this case"
        )
    found += [
        f"{cell.name}, seed {cell.seed}: the attack {attack} diverged, so it has no AG and is left out of the score"
        for cell in cells
        for attack in cell.diverged
    ]
    return found
