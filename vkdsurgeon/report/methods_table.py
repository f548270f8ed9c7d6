"""The table of a comparison: several methods on the same case."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.report.evidence import Case
from vkdsurgeon.report.text import Wording, count
from vkdsurgeon.results.comparison import ComparisonResult
from vkdsurgeon.results.comparison_columns import CPU_SECONDS, FLOPS, FORGET, MEMORY, NAME, SCORE, SECONDS, attack_of
from vkdsurgeon.results.comparison_table import CHANCE, columns_of, heading, lines_of

_LOWER = (FORGET, NAME, SECONDS, CPU_SECONDS, MEMORY, FLOPS)
_UNITS = {SECONDS: "", CPU_SECONDS: "", MEMORY: "", FLOPS: "", SCORE: "0 to 1"}
_SCOPES = {
    "visual": "tower and projector",
    "llm": "LoRA on the language model",
    "llm_full": "the language model",
    "all": "every weight",
}


@dataclass(frozen=True)
class Head:
    """One column: its name, its unit, and which way is better."""

    name: str
    unit: str
    direction: str


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        name: The method.
        title: What it is, in a few words.
        mine: Whether these are the weights that the report is about.
        cells: One text per column; empty where nothing was measured.
    """

    name: str
    title: str
    mine: bool
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """One comparison of methods, as the report shows it.

    Attributes:
        heads: The columns.
        lines: The rows, base and gold among them, and what guessing would give.
        facts: How it was measured, one sentence each.
    """

    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    facts: tuple[str, ...]


def line_up(case: Case, wording: Wording) -> Field | None:
    """Arrange the comparison of a case for reading; None where there is none."""
    result = case.comparison
    if result is None:
        return None
    titles = {row.name: row.title for row in result.rows}
    mine = {cell.name for cell in result.cells if cell.weights_digest == case.weights.get("model")}
    return Field(
        heads=tuple(_head(column, wording) for column in columns_of(result)),
        lines=tuple(
            Line(
                wording(name),
                wording(titles[name]) if name in titles else "guessing among the options",
                name in mine and name != CHANCE,
                # A hyphen between numbers is read as one; these are minus signs.
                tuple(wording(text.replace("-", "−")) for text in cells),
            )
            for name, cells in lines_of(result)
        ),
        facts=tuple(_facts(result, case, bool(mine), wording)),
    )


def _head(column: str, wording: Wording) -> Head:
    attack = attack_of(column)
    lower = column in _LOWER or attack is not None
    unit = "points" if attack is not None else _UNITS.get(column, "%")
    return Head(wording(heading(column)), unit, "lower" if lower else "higher")


def _facts(result: ComparisonResult, case: Case, mine: bool, wording: Wording) -> list[str]:
    seeds = sorted({seed for row in result.rows for seed in row.seeds})
    limit = "all questions" if result.limit is None else f"at most {count(result.limit, 'question')} a set"
    measured = "; ".join(f"{name} on {part}" for name, part in result.measured_on.items())
    told = ", ".join(map(str, seeds))
    spread = f"Means over seeds {told}, then the smallest and the largest." if len(seeds) > 1 else f"One seed, {told}."
    attack = result.attack
    scopes = " or ".join(_SCOPES.get(scope, scope) for scope in attack.scopes)
    facts = [f"{spread} Measured: {measured}; {limit}."]
    if attack.protocols:
        facts.append(
            f"AG is what relearning {100 * attack.fraction:g} % of the people, or of the kinds of question, brings "
            f"back of the rest in {count(attack.steps, 'step')} at {attack.lr:g}, by an attacker who trains {scopes}; "
            "gold was attacked alike, with the same seeds."
        )
        facts.append(
            "Score: nearness to gold on what is to be forgotten, times the share of base’s retain that was kept, times "
            "resistance to relearning beyond gold’s by the worst of these attackers. Text and general are not in it."
        )
    facts.append(
        "Every method ran with the settings of this comparison, which may have been tuned for some of them and not for "
        "others; a better setting of each surely exists."
    )
    if "model" in case.weights and not mine:
        facts.append("None of the compared weights are those of the model that this report is about.")
    return [wording(fact) for fact in facts]
