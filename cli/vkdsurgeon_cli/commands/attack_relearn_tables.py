"""Relearning attacks as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vkdsurgeon_cli.tables import Sheet, or_blank, percent

if TYPE_CHECKING:
    from vkdsurgeon.results.evaluation import Metric
    from vkdsurgeon.results.relearn import CurvePoint, Recovery, RelearnResult, RelearnSettings

AG = "relearn.ag"
STAGES = ("before", "after")
_UTILITY = ("retain", "utility")
_VARIED: dict[str, Callable[[RelearnSettings], str]] = {
    "scope": lambda settings: f"{settings.scope}, rank {settings.rank}" if settings.rank else settings.scope,
    "lr": lambda settings: f"{settings.lr:g}",
}


@dataclass(frozen=True)
class _Attack:
    """One attack of a document, with ids as if it were the only one."""

    settings: RelearnSettings
    metrics: Mapping[str, Metric]
    curve: Sequence[CurvePoint]
    recovery: Sequence[Recovery]
    diverged: bool

    def value(self, name: str) -> float | None:
        found = self.metrics.get(name)
        return None if found is None else found.value


def sheets(result: RelearnResult) -> list[Sheet]:
    """One line per attack; for a single attack its metrics and its curve as well."""
    attacks = _attacks(result)
    made = [_overview(attacks)]
    if len(attacks) == 1:
        made = [_summary(attacks[0]), *made]
    return [*made, _curve(attacks[0])] if len(attacks) == 1 else made


def _attacks(result: RelearnResult) -> list[_Attack]:
    from vkdsurgeon.results.relearn import RelearnSettings

    if isinstance(result.settings, RelearnSettings):
        metrics = {metric.id: metric for metric in result.metrics}
        return [_Attack(result.settings, metrics, result.curve, result.recovery, result.diverged)]
    found = []
    for case in result.cases:
        own = f"relearn.{case.id}."
        metrics = {metric.id.replace(own, "relearn.", 1): metric for metric in result.metrics if own in metric.id}
        found.append(_Attack(case.settings, metrics, case.curve, case.recovery, case.diverged))
    return found


def _overview(attacks: Sequence[_Attack]) -> Sheet:
    first = attacks[0].settings
    gold = any(f"gold.{AG}" in attack.metrics for attack in attacks)
    # What is the same for all stands above the table.
    varied = [name for name, of in _VARIED.items() if len({of(attack.settings) for attack in attacks}) > 1]
    same = [f"{name} {of(first)}" for name, of in _VARIED.items() if name not in varied]
    seeds = f", {len(first.seeds)} seeds" if len(first.seeds) > 1 else ""
    title = ", ".join(["what came back", *same, f"{first.steps} steps{seeds}"])
    sheet = Sheet(f"{title}\nAG in points with 95 % intervals; utility in percent, before -> after")
    for column in ("attack", *varied):
        sheet.column(column, "left")
    share = next((each.share for attack in attacks for each in attack.recovery), 0.5)
    back = f"{100 * share:g} % back\nat step" + (" / gold" if gold else "")
    sheet.column("AG")
    if gold:
        sheet.column("gold AG", drop=1)
        sheet.column("beyond gold", drop=2)
    sheet.column(back, drop=3)
    sheet.column("utility")
    for attack in attacks:
        settings = attack.settings
        gains = [attack.metrics.get(name) for name in (AG, *((f"gold.{AG}", f"gap.{AG}") if gold else ()))]
        sheet.row(
            f"{settings.protocol} {100 * settings.fraction:g} %",
            *(_VARIED[name](settings) for name in varied),
            *(["diverged", *map(_gain, gains[1:])] if attack.diverged else map(_gain, gains)),
            _steps(attack.recovery),
            _utility(attack),
        )
    return sheet


def _gain(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "n/a"
    ends = "" if metric.low is None or metric.high is None else f" [{metric.low:+.1f}, {metric.high:+.1f}]"
    return f"{metric.value:+.1f}{ends}"


def _steps(found: Sequence[Recovery]) -> str:
    told = []
    for each in found:
        middle = statistics.median(each.within + 1 if step is None else step for step in each.steps)
        told.append("never" if middle > each.within else f"{middle:g}")
    return " / ".join(told) or "n/a"


def _utility(attack: _Attack) -> str:
    shares = []
    for stage in STAGES:
        values = [
            metric.value
            for name, metric in attack.metrics.items()
            for part in _UTILITY
            if name.startswith(f"relearn.{part}.{stage}.") and name.count(".") == 4
        ]
        known = [value for value in values if value is not None]
        if not known or len(known) != len(values):
            return "diverged" if attack.diverged else "not measured"
        shares.append(percent(statistics.fmean(known)))
    return " -> ".join(shares)


def _summary(attack: _Attack) -> Sheet:
    settings, values = attack.settings, {name: metric.value for name, metric in attack.metrics.items()}
    title = (
        f"relearning, protocol {settings.protocol}, {100 * settings.fraction:g} % shown, scope {settings.scope}, "
        f"{settings.steps} steps at {settings.lr:g}\n"
        f"shown {settings.shown_records} questions on {settings.shown_subjects} subjects, measured "
        f"{settings.measured_records} on {settings.measured_subjects} ({settings.measured_on} set); percent"
    )
    sheet = Sheet(title)
    roles = [("", "model"), ("gold.", "gold")] if f"gold.{AG}" in values else [("", "model")]
    sheet.column("metric", "left")
    for _, role in roles:
        for column in STAGES:
            sheet.column(f"{role}\n{column}" if len(roles) > 1 else column)
    ceiling = any(name.startswith("reference.") for name in values)
    if ceiling:
        sheet.column("base", drop=1)
    sheet.column("chance", drop=2)
    parts = (("relearn", "measured"), *((f"relearn.{part}", part) for part in _UTILITY))
    for part, shown in parts:
        start = f"{part}.before."
        for name in (name for name in values if name.startswith(start)):
            rest = name.removeprefix(start)
            pairs = [percent(values[f"{prefix}{part}.{stage}.{rest}"]) for prefix, _ in roles for stage in STAGES]
            sheet.row(
                f"{shown}.{rest}",
                *pairs,
                *([_or_blank(values, f"reference.{name}")] if ceiling else []),
                or_blank(attack.metrics[name].chance),
            )
    ags = [f"{value:+.1f}" if (value := values[f"{prefix}{AG}"]) is not None else "n/a" for prefix, _ in roles]
    sheet.line()
    sheet.row("AG, points", *(cell for ag in ags for cell in ("", ag)), *(["", ""] if ceiling else [""]))
    return sheet


def _curve(attack: _Attack) -> Sheet:
    names = list(attack.curve[0].values)
    sheet = Sheet("over the steps, percent")
    for number, column in enumerate(("model", "step", "loss", *names)):
        # The first metric stays, whatever the room.
        sheet.column(column, "left" if column == "model" else "right", drop=max(number - 3, 0))
    for point in attack.curve:
        loss = "" if point.loss is None else f"{point.loss:.3f}"
        sheet.row(point.model, str(point.step), loss, *(percent(point.values[name]) for name in names))
    return sheet


def _or_blank(values: Mapping[str, float | None], name: str) -> str:
    return percent(values[name]) if name in values else ""
