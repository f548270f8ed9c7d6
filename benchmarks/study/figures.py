"""What tables are made of: rows by case, points, and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.study.attacks import PROTOCOLS
from benchmarks.study.cases import Role, fits
from benchmarks.study.measure import attributes
from benchmarks.study.rows import read_rows
from vkdsurgeon.baselines.registry import BASELINES
from vkdsurgeon.errors import UserError

Row = dict[str, Any]
Cell = float | None


@dataclass(frozen=True, eq=False)
class Case:
    """All rows of one case and unlearning seed."""

    name: str
    seed: int
    base: Row
    gold: Row
    recipes: Mapping[str, Row]


def read_cases(files: Path | Sequence[Path], recipes: Sequence[str] = ("*",)) -> dict[Role, list[Case]]:
    """The rows of a file, or of several, by role and case.

    Args:
        files: The rows.
        recipes: Patterns of the recipes that count; base and gold always do.

    Raises:
        UserError: There are no rows, or none of such a recipe, or files that do not belong together.
    """
    rows = read_rows([files] if isinstance(files, Path) else files)
    found: dict[Role, list[Case]] = {}
    for role in ("reporting", "tuning"):
        wanted = choose(_cases([row for row in rows if row["role"] == role]), recipes)
        if wanted:
            found[role] = wanted
    if not any(case.recipes for cases in found.values() for case in cases) and tuple(recipes) != ("*",):
        raise UserError(
            "there are no results of such a recipe",
            where="--recipes",
            value=" ".join(recipes),
            expected=", ".join(sorted({row["recipe"] for row in rows})),
        )
    return found


def choose(cases: Sequence[Case], recipes: Sequence[str]) -> list[Case]:
    """The cases with those recipes alone whose name one of the patterns fits."""
    return [
        replace(case, recipes={name: row for name, row in case.recipes.items() if fits(name, recipes)})
        for case in cases
    ]


def shared_by(cases: Sequence[Case]) -> list[Case]:
    """The cases and unlearning seeds that all recipes were measured on."""
    names = {name for case in cases for name in case.recipes}
    return [case for case in cases if names <= case.recipes.keys()]


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
    """Points of one row: answers, those about names with the original V and P put back (`restore`), and AG per attack.

    Args:
        row: Of a recipe, of base or of gold.
        without: Attributes that do not count, because a stand-in shares them with the forgotten person by chance.
    """
    values = row["values"]
    points: dict[str, Cell] = {
        name: 100 * values[name] for name in ("name", "general", "retain", "retain_general", "text")
    }
    share = attributes(values["attribute_hits"], without)
    if "restore" in row:
        points["restore"] = 100 * row["restore"]["name"]
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


def decoder_passed(row: Row) -> bool:
    """Whether the decoder pass ran."""
    return "decoder_seconds" in row.get("unlearning", {})


def edits_language(row: Row) -> bool:
    """Whether a recipe is one that edits the language model: by the decoder pass, or as another method does."""
    # Told by the method, not by what differs: that a recipe which must not edit it did so has to show.
    return decoder_passed(row) or row.get("unlearning", {}).get("method") in BASELINES


def order(name: str) -> tuple[int, int, float]:
    """Of attacks by name: protocol, steps, learning rate."""
    protocol, steps, lr = name.split("/")
    return tuple(map(str, PROTOCOLS)).index(protocol), int(steps), float(lr)


def number(value: Cell, digits: int = 1) -> str:
    """A cell of a table; empty where there is nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(
        [f"| {' | '.join(head)} |", "|" + "-|" * len(head), *(f"| {' | '.join(line)} |" for line in lines)]
    )
