"""What came back under attack, and what the attack itself cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vkdsurgeon.report.attack_table import TriedTable, rise_of, sum_up, tabulate
from vkdsurgeon.report.figures import Curve, Series, draw_curve
from vkdsurgeon.report.metrics_table import Cell
from vkdsurgeon.report.text import Wording, count, percent, points
from vkdsurgeon.report.verdict import attack_title
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.evaluation import Metric
from vkdsurgeon.results.relearn import RelearnSettings

# Settings whose values are words of the tool's own; other text may be the user's, and is not shown.
_WORDS = frozenset({"part", "protocol", "scope", "optimizer", "device", "measured_on", "probe", "pooling", "tested_on"})
_PARTS = (
    ("", "Measured on what the attacker was not shown"),
    ("retain.", "Utility: what is to be kept"),
    ("utility.", "Utility: other questions about the same images, and text"),
)
_FEW_POINTS = 0.05
_TRAINED = {
    "visual": "tower and projector",
    "llm": "LoRA matrices on the language model",
    "llm_full": "the language model",
    "all": "every weight",
}


@dataclass(frozen=True)
class AttackRow:
    """One metric before and after, of the model and of gold; `ceiling` is the base, `whole` means a whole task."""

    task: str
    whole: bool
    n: int
    direction: str
    before: Cell | None
    after: Cell | None
    gold_before: Cell | None
    gold_after: Cell | None
    ceiling: Cell | None


def tone_of(rise: float, over_gold: float | None) -> str:
    """`bad` where more came back than a few points, and more than gold shows; else `good`.

    Args:
        rise: What came back, from 0 to 1.
        over_gold: How far that is above gold; None where gold was not attacked.
    """
    beyond = over_gold is None or over_gold > _FEW_POINTS
    return "bad" if rise > _FEW_POINTS and beyond else "good"


@dataclass(frozen=True)
class Rise:
    """The forgotten metric that rose most.

    Attributes:
        name: The metric, or the metric and what was tried.
        text: All of it in a sentence.
        before: Before the attack, from 0 to 1.
        after: After it.
        gold: Gold after the same attack; None where gold was not attacked.
    """

    name: str
    text: str
    before: float
    after: float
    gold: float | None

    @property
    def tone(self) -> str:
        """`bad` or `good`, by `tone_of`."""
        return tone_of(self.after - self.before, None if self.gold is None else self.after - self.gold)


@dataclass(frozen=True)
class Attack:
    """One attack, as the report shows it.

    Attributes:
        title: For people.
        budget: What the attacker did, in a sentence, or its settings.
        headline: What came back, in a sentence.
        rise: The same as numbers; None where no forgotten metric was measured before and after.
        outcome: The rest of the result in sentences.
        groups: Heading -> rows.
        has_gold: Whether gold was attacked alike.
        has_ceiling: Whether the base was measured.
        has_parts: Whether there are rows of less than a whole task.
        curves: One figure per metric.
        gain: AG in points, and gold's; None where the attack has none.
        tried: Table of an attack that tries many things instead of one.
    """

    title: str
    budget: str
    headline: str
    rise: Rise | None
    outcome: str
    groups: tuple[tuple[str, tuple[AttackRow, ...]], ...]
    has_gold: bool
    has_ceiling: bool
    has_parts: bool
    curves: tuple[Curve, ...]
    gain: tuple[float | None, float | None] | None
    tried: TriedTable | None = None


def arrange(document: AttackDocument, wording: Wording) -> Attack:
    """Arrange one attack for reading."""
    metrics = {metric.id: metric for metric in document.metrics}
    groups = tuple((title, rows) for part, title in _PARTS if (rows := _rows(document.attack, part, metrics, wording)))
    every = [row for _, rows in groups for row in rows]
    rise = _risen_most(_rows(document.attack, "", metrics, wording))
    gain = f"{document.attack}.ag"
    relearning = document.attack == "relearn"
    tried = tabulate(document, wording)
    told = [*filter(None, [_recovery(document)])]
    if tried:
        headline, rise = sum_up(document, wording), _tried_rise(document, wording)
    else:
        headline = "" if rise is None else rise.text
    if document.diverged:
        rise = None
        headline = "The attack diverged: its loss was no number any more, so it does not tell what could come back."
    elif gain in metrics:
        told.insert(0, _outcome(gain, metrics))
    if not any(name.startswith((f"{document.attack}.retain.", f"{document.attack}.utility.")) for name in metrics):
        told.append("Utility beside it was not measured.")
    return Attack(
        title=wording(attack_title(document)),
        budget=_relearning(document) if relearning else _settings(document, wording),
        headline=headline or (told.pop(0) if told else ""),
        rise=rise,
        outcome=" ".join(told),
        groups=groups,
        has_gold=any(row.gold_after or row.gold_before for row in every),
        has_ceiling=any(row.ceiling for row in every),
        has_parts=not all(row.whole for row in every),
        curves=tuple(_curves(document, metrics, wording)),
        gain=(metrics[gain].value, _value(metrics, f"gold.{gain}")) if gain in metrics else None,
        tried=tried,
    )


def _relearning(document: AttackDocument) -> str:
    settings = RelearnSettings.model_validate(document.settings)
    shown = count(settings.shown_records, "question")
    subjects = count(settings.shown_subjects, "forgotten subject")
    measured = count(settings.measured_records, "question")
    held_out = settings.measured_on == "heldout"
    where = "on other images" if held_out else "on the forget set’s own images"
    if settings.protocol in ("benign", "unrelated"):
        data = "about what is to be kept" if settings.protocol == "benign" else "of other data"
        what = f"{shown} {data}, nothing of the forget set, and is measured on {measured} about forgotten subjects"
    elif settings.protocol == "views" or settings.fraction == 1.0:
        what = f"{shown} about {subjects} and is measured on {measured} of the same kinds about the same"
        where = "on other images" if held_out else "on other images of the forget set"
    elif settings.protocol == "people":
        what = f"{shown} about {subjects} and is measured on {measured} about {settings.measured_subjects:,} others"
    else:
        what = f"{shown} about {subjects} and is measured on {measured} of other kinds about the same"
    rank = f" of rank {settings.rank}" if settings.rank else ""
    return (
        f"The attacker fine-tunes {_TRAINED[settings.scope]}{rank} ({settings.trained_parameters:,} weights) for "
        f"{count(settings.steps, 'step')} at a learning rate of {settings.lr:g} on {what}, {where}. "
        + _seeds(settings.seeds or [settings.seed])
    )


def _seeds(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f"One seed ({seeds[0]})."
    told = ", ".join(map(str, seeds))
    return f"Means over {len(seeds)} seeds ({told}), with intervals over seeds and questions; numbers of the first."


def _recovery(document: AttackDocument) -> str:
    told = []
    for found in document.recovery:
        middle = statistics.median(found.within + 1 if step is None else step for step in found.steps)
        when = f"never within {count(found.within, 'step')}" if middle > found.within else f"at step {middle:g}"
        told.append(f"{'gold ' if found.model == 'gold' else ''}{when}")
    if not told:
        return ""
    first = document.recovery[0]
    whole = "the base knows" if first.of == "reference" else "there is to know"
    return f"When {100 * first.share:g} % of what {whole} above chance was back: {'; '.join(told)}."


def _settings(document: AttackDocument, wording: Wording) -> str:
    told = []
    for key, value in document.settings.items():
        if isinstance(value, bool):
            told.append(f"{key}: {'yes' if value else 'no'}")
        elif isinstance(value, int):
            told.append(f"{key}: {value:,}")
        elif isinstance(value, float):
            told.append(f"{key}: {value:g}")
        elif isinstance(value, str) and key in _WORDS:
            told.append(f"{key}: {value}")
    return wording("; ".join(told).replace("_", " ")) + "."


def _outcome(gain: str, metrics: Mapping[str, Metric]) -> str:
    def told(name: str, unit: str = "") -> str:
        found = metrics[name]
        ends = f" (95 % interval {points(found.low)} to {points(found.high)})" if found.low is not None else ""
        return points(found.value) + unit + ends

    text = f"AG, the mean gain of what was measured: {told(gain, ' points')}"
    if f"gold.{gain}" in metrics:
        text += f"; gold under the same attack {told(f'gold.{gain}')}"
    if f"gap.{gain}" in metrics:
        text += f", so {told(f'gap.{gain}')} beyond what anybody would learn from the same data"
    return text + "."


def _risen_most(rows: Sequence[AttackRow]) -> Rise | None:
    """The forgotten metric that rose most; a whole task before a part of one that rose as much."""
    rises = []
    for row in rows:
        before, after = row.before, row.after
        if row.direction != "lower" or before is None or after is None:
            continue
        if before.value is not None and after.value is not None:
            rises.append((after.value - before.value, row.whole, row, before, after))
    if not rises:
        return None
    _, _, row, before, after = max(rises, key=lambda each: each[:2])
    assert before.value is not None
    assert after.value is not None
    gold = f"; gold {percent(row.gold_after.value)} %" if row.gold_after else ""
    text = f"{row.task}: {before.text} % before, {after.text} % after{gold}."
    return Rise(row.task, text, before.value, after.value, row.gold_after.value if row.gold_after else None)


def _tried_rise(document: AttackDocument, wording: Wording) -> Rise | None:
    """The same of an attack that tries many things."""
    found = rise_of(document, wording)
    return None if found is None else Rise(found.name, sum_up(document, wording), found.before, found.after, found.gold)


def _rows(attack: str, part: str, metrics: Mapping[str, Metric], wording: Wording) -> tuple[AttackRow, ...]:
    def cell(name: str) -> Cell | None:
        found = metrics.get(name)
        return None if found is None else Cell(found.value, found.low, found.high)

    rows = []
    start = f"{attack}.{part}after."
    for name in (name for name in metrics if name.startswith(start)):
        rest = name.removeprefix(start)
        before, after = f"{attack}.{part}before.{rest}", name
        rows.append(
            AttackRow(
                task=_task(rest, wording),
                whole=rest.count(".") == 1,
                n=metrics[name].n,
                direction=metrics[name].direction,
                before=cell(before),
                after=cell(after),
                gold_before=cell(f"gold.{before}"),
                gold_after=cell(f"gold.{after}"),
                ceiling=cell(f"reference.{before}") or cell(f"reference.{after}"),
            )
        )
    return tuple(rows)


def _curves(document: AttackDocument, metrics: Mapping[str, Metric], wording: Wording) -> list[Curve]:
    names = list(dict.fromkeys(name for point in document.curve for name in point.values))
    curves = []
    for name in names:
        series = []
        for role, label in (("model", "unlearned"), ("gold", "gold")):
            points = [
                (point.step, value)
                for point in document.curve
                if point.model == role and (value := point.values.get(name)) is not None
            ]
            if len(points) > 1:
                series.append(Series(role, label, tuple(sorted(points))))
        if not series:
            continue
        before = metrics.get(f"{document.attack}.before.{name}")
        curves.append(
            draw_curve(
                _task(name, wording),
                series,
                ceiling=_value(metrics, f"reference.{document.attack}.before.{name}"),
                chance=None if before is None else before.chance,
            )
        )
    return curves


def _task(name: str, wording: Wording) -> str:
    return wording(name.removesuffix(".accuracy"))


def _value(metrics: Mapping[str, Metric], name: str) -> float | None:
    found = metrics.get(name)
    return None if found is None else found.value
