"""`vkdsurgeon eval`: what a model still recognises, and what it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import (
    ModelArgument,
)
from vkdsurgeon_cli.suite_options import Benchmark

if TYPE_CHECKING:
    from vkdsurgeon.results.evaluation import EvalResult, Metric
    from vkdsurgeon_cli.tables import Sheet

_MOST_COLUMNS = 8
_ONE_PER_TASK = ("accuracy", "likelihood", "cloze", "exact", "rouge_l")
# Of the document alone: columns of the table show the same numbers beside the model's.
_OTHER_MODELS = ("reference", "gold", "delta", "gap", "room")


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The sets of questions."""

    forget: Annotated[
        Path | None, typer.Option("--forget", metavar="SET", help="Questions on the forget set: lower is better.")
    ] = None
    retain: Annotated[Path | None, typer.Option("--retain", metavar="SET", help="What is to be kept.")] = None
    text: Annotated[Path | None, typer.Option("--text", metavar="SET", help="Questions without images.")] = None
    sets: Annotated[
        list[str] | None, typer.Option("--extra-set", metavar="NAME=SET", help="Another set; repeatable.")
    ] = None
    # Its name until `--set KEY=VALUE` of other commands took it.
    former_sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=SET", hidden=True)] = None
    panel: ClassVar[str] = "Data"

    def named(self) -> dict[str, Path]:
        """The sets that were given, by name.

        Raises:
            UserError: One is not NAME=SET, or two have one name.
        """
        from vkdsurgeon.errors import UserError

        own = (("forget", self.forget), ("retain", self.retain), ("text", self.text))
        found = {name: path for name, path in own if path}
        for text in [*(self.sets or []), *(self.former_sets or [])]:
            name, _, path = text.partition("=")
            if not path:
                raise UserError("not a set", where="--extra-set", value=text, expected="NAME=FILE")
            if name in found:
                raise UserError("two sets have the same name", where="--extra-set", value=[*found, name])
            found[name] = Path(path)
        return found


@dataclass(frozen=True, kw_only=True)
class EvalBenchmark(Benchmark):
    """Sets of a published benchmark, and how it asks."""

    few_shot: Annotated[
        bool, typer.Option("--few-shot", help="For a benchmark: show examples of a retain person first.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class EvalResults(Results):
    """Where the result goes, and what is in it."""

    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Keep answers here; the same question is not asked twice."),
    ] = None
    include_examples: Annotated[
        bool, typer.Option("--include-examples", help="Put names, questions and answers into the result.")
    ] = False


def evaluate_command(
    *,
    model: ModelArgument,
    sets: Sets,
    benchmark: EvalBenchmark,
    models: ComparedModels,
    answering: Answering,
    results: EvalResults,
) -> None:
    """Measure what a model still recognises and how well it answers the rest, compared with base and gold.

    A question with options is answered by the option that the model finds most likely, any other by greedy generation.
    Metrics are named SET.TASK.METRIC, such as forget.vqa.accuracy. --base adds reference.* (the base), delta.* (the
    difference) and SET.TASK.agreement; --gold adds gold.* and gap.* (the difference).
    """
    suite = benchmark.chosen({"--forget": sets.forget, "--retain": sets.retain, "--text": sets.text})
    out = results.begin()
    if sets.former_sets:
        out.warn("--set NAME=SET is called --extra-set now; the old name still works here and will go")
    from vkdsurgeon import evaluate

    result = evaluate(
        model,
        sets.named(),
        suite=suite,
        few_shot=benchmark.few_shot,
        **vars(models),
        **vars(answering),
        **results.asked(),
        cache=results.cache,
        include_examples=results.include_examples,
        on_event=out.heard,
    )
    results.conclude(result, lambda: _sheets(result))


def _sheets(result: EvalResult) -> list[Sheet]:
    metrics = {metric.id: metric for metric in result.metrics}
    made = [_metric_sheet(metrics, [facts.role for facts in result.models])]
    if any(subject.set == "forget" for subject in result.subjects):
        made.append(_subject_sheet(result))
    return made


def _metric_sheet(metrics: Mapping[str, Metric], roles: Sequence[str]) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet, or_blank, percent

    based = "reference" in roles
    sheet = Sheet("percent")
    sheet.column("metric", "left")
    sheet.column("model")
    sheet.column("interval", drop=1, note="95 % intervals")
    for role in roles[1:]:
        sheet.column("base" if role == "reference" else role)
    if based:
        sheet.column("same", drop=2, note="same: answered like the base")
    if "gold" in roles:
        sheet.column("apart", drop=6, note="apart: divergence from gold")
    sheet.column("chance", drop=4)
    sheet.column("n", drop=3)
    sheet.column("better", "left", drop=5)
    for metric in metrics.values():
        group, name = metric.id.rsplit(".", 1)
        if metric.id.split(".", 1)[0] in _OTHER_MODELS or name in ("agreement", "js_divergence"):
            continue
        others = [metrics.get(f"{role}.{metric.id}") for role in roles[1:]]
        if based:
            others.append(None if name in ("forget_quality", "ks") else metrics.get(f"{group}.agreement"))
        sheet.row(
            metric.id,
            percent(metric.value),
            "" if metric.low is None else f"{percent(metric.low)}-{percent(metric.high)}",
            *("" if other is None else percent(other.value) for other in others),
            *([_apart(metrics.get(f"{group}.js_divergence"), name)] if "gold" in roles else []),
            or_blank(metric.chance),
            str(metric.n),
            "" if metric.direction == "none" else metric.direction,
        )
    return sheet


def _apart(divergence: Metric | None, name: str) -> str:
    """Of the questions with options, whose `accuracy` it stands beside."""
    from vkdsurgeon_cli.tables import percent

    return "" if divergence is None or name != "accuracy" else percent(divergence.value)


def _subject_sheet(result: EvalResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet, percent

    rows = [subject for subject in result.subjects if subject.set == "forget"]
    names = dict.fromkeys(name for row in rows for name in row.values)
    # A benchmark has a dozen metrics; a line that nobody can read shows none.
    columns = [name for name in names if len(names) < _MOST_COLUMNS or name.endswith(_ONE_PER_TASK)]
    tasks = {column: column.removeprefix("forget.") for column in columns}
    alike = {task.rsplit(".", 1)[-1] for task in tasks.values()}
    measure = f" ({alike.pop()})" if len(alike) == 1 else ""
    sheet = Sheet(f"per subject of the forget set, percent{measure}")
    sheet.column("subject", "left")
    for number, task in enumerate(tasks.values()):
        sheet.column(task.rsplit(".", 1)[0] if measure else task, drop=number)
    sheet.column("n", drop=1)
    for row in rows:
        sheet.row(row.subject, *(percent(row.values.get(name)) for name in columns), str(row.n))
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "eval",
        evaluate_command,
        "eval patched/ --base model/ --forget h.jsonl --retain kept.jsonl -o eval.json",
        'eval patched/ --forget h.jsonl --gate "forget.vqa.accuracy<=0.1"',
        "eval patched/ --suite mllmu --suite-root MLLMU-Bench/ --split forget_5",
        summary="Measure what a model still recognises, and what it still can do.",
    )
