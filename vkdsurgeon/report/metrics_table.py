"""What was measured, beside base and gold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vkdsurgeon.report.text import Wording, count, difference, interval, percent
from vkdsurgeon.results.evaluation import Direction, EvalResult, Metric, SetFacts

_COMPARED = ("agreement", "identical", "js_divergence")
# Deeper groups repeat the story with fewer records; they are in the complete table. Of what is to be forgotten, each
# kind of question is a story of its own.
_DEPTH, _DEPTH_OF_FORGET = 0, 1
_TITLES = {"forget": "To be forgotten", "retain": "To be kept", "text": "Text without images"}


@dataclass(frozen=True)
class Cell:
    """One measured share with its interval; the ends are None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The value in percent."""
        return percent(self.value)

    @property
    def interval(self) -> str:
        """Its interval in percent; empty where there is none."""
        return interval(self.low, self.high)

    @property
    def difference(self) -> str:
        """The difference in points."""
        return difference(self.value)


@dataclass(frozen=True)
class Row:
    """One metric of one group of questions.

    Attributes:
        parent: The dotted groups that this one is a part of, with a dot at the end; empty for a whole task.
        name: The group's own name.
        metric: Such as `accuracy`.
        depth: 0 for a whole task.
        n: Number of records.
        direction: Which way is better.
        chance: What guessing would give; None where that means nothing.
        cells: Column (`reference`, `model`, `gold`) -> what was measured.
        delta: Model minus base.
        gap: Model minus gold.
        same: Share of answers equal to the base's.
        divergence: Jensen-Shannon divergence of the options' probabilities from gold's, in bits.
    """

    parent: str
    name: str
    metric: str
    depth: int
    n: int
    direction: Direction
    chance: float | None
    cells: dict[str, Cell]
    delta: Cell | None
    gap: Cell | None
    same: Cell | None
    divergence: Cell | None


@dataclass(frozen=True)
class SetTable:
    """The metrics of one set.

    Attributes:
        name: As in metric ids.
        title: For people.
        facts: What it consists of.
        columns: Which models were asked, base first.
        rows: Whole tasks; of the forget set their parts as well.
        all_rows: Every group.
    """

    name: str
    title: str
    facts: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    all_rows: tuple[Row, ...]


@dataclass(frozen=True)
class SubjectRow:
    """One subject of the forget set, under a number unless names were asked for."""

    subject: str
    n: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The tables of one evaluation."""

    tables: tuple[SetTable, ...]
    subject_columns: tuple[str, ...]
    subjects: tuple[SubjectRow, ...]


def compare(result: EvalResult, wording: Wording, *, by_name: bool) -> Comparison:
    """Arrange one evaluation for reading.

    Args:
        result: The evaluation.
        wording: For names of tasks and sets.
        by_name: Show subjects as the document tells them; else under numbers.
    """
    metrics = {metric.id: metric for metric in result.metrics}
    roles = [facts.role for facts in result.models]
    columns = tuple(role for role in ("reference", "model", "gold") if role in roles)
    tables = tuple(_table(facts, metrics, columns, wording) for facts in result.sets)
    forgotten = [row for row in result.subjects if row.set == "forget"]
    names = list(dict.fromkeys(name for row in forgotten for name in row.values))
    return Comparison(
        tables=tuple(table for table in tables if table.all_rows),
        subject_columns=tuple(wording(name.removeprefix("forget.")) for name in names),
        subjects=tuple(
            SubjectRow(
                wording(row.subject) if by_name else f"subject {number}",
                row.n,
                tuple(percent(row.values.get(name)) for name in names),
            )
            for number, row in enumerate(forgotten, start=1)
        ),
    )


def _table(facts: SetFacts, metrics: Mapping[str, Metric], columns: tuple[str, ...], wording: Wording) -> SetTable:
    rows = []
    for name, metric in metrics.items():
        task, _, kind = name.removeprefix(f"{facts.name}.").rpartition(".")
        if name.startswith(f"{facts.name}.") and task and kind not in _COMPARED:
            rows.append(_row(facts.name, task, kind, metric, metrics, columns, wording))
    asked = count(facts.asked, "question")
    of = f" of {facts.records:,}" if facts.asked != facts.records else ""
    images = f" on {count(facts.pictures, 'image')}" if facts.pictures else ""
    subjects = f" about {count(facts.subjects, 'subject')}" if facts.subjects else ""
    return SetTable(
        name=facts.name,
        title=_TITLES.get(facts.name, f"Set “{wording(facts.name)}”"),
        facts=f"{asked}{of}{images}{subjects}",
        columns=columns,
        rows=tuple(row for row in rows if row.depth <= (_DEPTH_OF_FORGET if facts.name == "forget" else _DEPTH)),
        all_rows=tuple(rows),
    )


def _row(
    set_name: str,
    task: str,
    kind: str,
    metric: Metric,
    metrics: Mapping[str, Metric],
    columns: tuple[str, ...],
    wording: Wording,
) -> Row:
    def cell(name: str) -> Cell | None:
        found = metrics.get(name)
        return None if found is None else Cell(found.value, found.low, found.high)

    cells = {role: cell(metric.id if role == "model" else f"{role}.{metric.id}") for role in columns}
    parent, dot, own = task.rpartition(".")
    return Row(
        parent=wording(parent + dot) if parent else "",
        name=wording(own),
        metric=wording(kind.replace("_", "-")),
        depth=task.count("."),
        n=metric.n,
        direction=metric.direction,
        chance=metric.chance,
        cells={role: found for role, found in cells.items() if found is not None},
        delta=cell(f"delta.{metric.id}"),
        gap=cell(f"gap.{metric.id}"),
        same=cell(f"{set_name}.{task}.agreement"),
        divergence=cell(f"{set_name}.{task}.js_divergence") if kind == "accuracy" else None,
    )
