"""`vkdsurgeon eval`: what a model still recognises, and what it kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from vkdsurgeon_cli.options import DeviceOption, GateOption, JsonOption, ModelArgument, ProgressOption, SeedOption
from vkdsurgeon_cli.output import Output, ProgressMode
from vkdsurgeon_cli.suite_options import SplitOption, SuiteName, SuiteOption, SuiteRootOption, split_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vkdsurgeon.data.sets import NamedSet
    from vkdsurgeon.evaluation.gates import Gate
    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon.results.evaluation import EvalResult, GateOutcome, Metric
    from vkdsurgeon.results.relearn import RelearnResult, RestoreResult

ForgetSet = Annotated[Path | None, typer.Option("--forget", help="What is to be forgotten: less is better.")]
RetainSet = Annotated[Path | None, typer.Option("--retain", help="What is to be kept.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="float32, bfloat16, or auto: the checkpoint's own on a GPU, float32 on a CPU.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Sequences per forward pass.")]
NormalisedOption = Annotated[
    bool, typer.Option("--length-normalised", help="Divide an option's log-likelihood by its number of tokens.")
]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Bound on a generated answer.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Write the result to this JSON file too.")]
SaltOption = Annotated[
    str | None, typer.Option("--salt", help="Salt for the sets' digests, so that only who knows it can check them.")
]


_MOST_COLUMNS = 8
_ONE_PER_TASK = ("accuracy", "likelihood", "cloze", "exact", "rouge_l")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate_command)


def evaluate_command(
    model: ModelArgument,
    forget: ForgetSet = None,
    retain: RetainSet = None,
    text: Annotated[Path | None, typer.Option("--text", help="Questions without pictures.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=FILE", help="A further set.")] = None,
    suite: SuiteOption = SuiteName.jsonl,
    suite_root: SuiteRootOption = None,
    split: SplitOption = None,
    few_shot: Annotated[
        bool, typer.Option("--few-shot", help="Of a benchmark: put demonstrations on a kept person before questions.")
    ] = False,
    reference: Annotated[Path | None, typer.Option("--reference", help="The model before unlearning.")] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model trained alike that never saw the forget set.")
    ] = None,
    gate: GateOption = None,
    output: OutputOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ask at most so many questions per set, drawn per task.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Directory of numbers measured before; what it holds is not asked again."),
    ] = None,
    include_examples: Annotated[
        bool, typer.Option("--include-examples", help="Put names, questions and answers into the result.")
    ] = False,
    salt: SaltOption = None,
    length_normalised: NormalisedOption = False,
    max_new_tokens: TokensOption = 64,
    batch_size: BatchOption = 32,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Measure what a model still recognises on the forget set and what it kept, against base and gold.

    Questions with options are decided by the likelihood of the options (sum of token log-probabilities); the others
    by greedy generation. Metrics are named SET.TASK.METRIC, such as forget.vqa.accuracy; with --reference and --gold
    also reference.*, delta.* (model minus reference), gold.*, gap.* (model minus gold) and SET.TASK.agreement.
    With --suite the sets, questions and metrics are those of a benchmark.
    """
    from vkdsurgeon.data.sets import parse_set, read_set
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.evaluate import Evaluation, evaluate
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.files.directories import scratch

    benchmark = split_of(suite, suite_root, split, {"--forget": forget, "--retain": retain, "--text": text})
    if few_shot and benchmark is None:
        raise UserError("demonstrations belong to a benchmark", where="--few-shot", remedy="add --suite mllmu or clear")
    gates = gates_of(gate, output)
    named = [read_set(name, path) for name, path in (("forget", forget), ("retain", retain), ("text", text)) if path]
    named += [parse_set(each) for each in sets or []]
    out = Output(as_json, progress)
    shots = 0

    def hear(event: Mapping[str, Any]) -> None:
        known = {"note": out.note, "warning": out.warn}.get(str(event.get("event")))
        if known is None:
            out.progress(event)
        else:
            known(str(event["text"]))

    with scratch() as folder:
        if benchmark is not None:
            from vkdsurgeon.data.suites.read import evaluation_sets

            found, shots = evaluation_sets(benchmark, folder, seed=seed, few_shot=few_shot, warn=out.warn)
            named = [*found, *named]
        evaluation = Evaluation(
            model=model,
            sets=named,
            reference=reference,
            gold=gold,
            gates=gates,
            scoring=Scoring(batch_size, length_normalised, max_new_tokens),
            device=device,
            dtype=dtype,
            limit=limit,
            seed=seed,
            salt=(salt or "").encode(),
            include_examples=include_examples,
            cache=cache,
            suite=suite.value if benchmark is None else f"{suite.value} {benchmark.split}",
            few_shot=shots,
        )
        result = evaluate(evaluation, hear)
    conclude(result, output, out, lambda: stack(_tables(result)))


def gates_of(gate: list[str] | None, output: Path | None) -> list[Gate]:
    """The bounds of `--gate`; also refuses an `--output` that could not be written, before anything costs time."""
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.results.evaluation import check_writable

    gates = parse_gates(gate or [])
    if output is not None:
        check_writable(output)
    return gates


def set_if_given(name: str, path: Path | None) -> NamedSet | None:
    """The set behind an option that may be left out."""
    from vkdsurgeon.data.sets import read_set

    return None if path is None else read_set(name, path)


def conclude(
    result: EvalResult | RelearnResult | RestoreResult | AttackResult,
    output: Path | None,
    out: Output,
    table: Callable[[], Table],
) -> None:
    """Write and print a measurement, then end with the gates that failed.

    Raises:
        SurgeryError: The file could not be written; what was measured stands on stdout.
        GateFailed: A gate failed.
    """
    from vkdsurgeon.evaluation.gates import raise_failures
    from vkdsurgeon.evaluation.warnings import told_of_broken

    broken = told_of_broken(result.metrics)
    result = result.model_copy(update={"warnings": [*broken, *result.warnings]})
    for warning in result.warnings:
        out.warn(warning)
    deliver(result, output, out, table)
    raise_failures(result.gates)


def deliver(result: BaseModel, output: Path | None, out: Output, table: Callable[[], Table]) -> None:
    """Write a result where it was asked for, and print it whatever comes of that: hours of work may be in it.

    Raises:
        SurgeryError: The file could not be written; the result stands on stdout.
    """
    from vkdsurgeon.errors import SurgeryError
    from vkdsurgeon.results.evaluation import write_document

    document = result.model_dump(mode="json")
    failed: OSError | None = None
    if output is not None:
        try:
            write_document(output, result)
        except OSError as error:
            failed = error
    if failed is None:
        out.document(document, table, kept=output)
        return
    out.rescue(document)
    raise SurgeryError(f"{output}: the result could not be written: {failed.strerror or failed}; it stands on stdout")


def _tables(result: EvalResult) -> list[Table]:
    metrics = {metric.id: metric for metric in result.metrics}
    roles = [facts.role for facts in result.models]
    parts: list[Table] = [_metric_table(metrics, roles)]
    if any(subject.set == "forget" for subject in result.subjects):
        parts.append(_subject_table(result))
    if result.gates:
        parts.append(gate_table(result.gates))
    return parts


def stack(tables: Sequence[Table]) -> Table:
    """Tables one below the other, each as wide as it needs to be: a cut number is worse than a long line."""
    console = Console(width=1000)
    whole = Table.grid()
    for table in tables:
        table.width = Measurement.get(console, console.options, table).maximum
        whole.add_row(table)
    whole.width = max((table.width or 0 for table in tables), default=0)
    return whole


def new_table(title: str) -> Table:
    """A table narrow enough for a log of eighty columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _metric_table(metrics: Mapping[str, Metric], roles: Sequence[str]) -> Table:
    table = new_table("percent, with 95 % intervals; same: answered like the reference")
    table.add_column("metric", no_wrap=True)
    for column in ("model", "interval", *roles[1:], *(["same"] if "reference" in roles else []), "chance", "n"):
        table.add_column(column, justify="right")
    table.add_column("better")
    for metric in metrics.values():
        group, name = metric.id.rsplit(".", 1)
        if metric.id.split(".", 1)[0] in ("reference", "gold", "delta", "gap", "room") or name == "agreement":
            continue
        others = [metrics.get(f"{role}.{metric.id}") for role in roles[1:]]
        if "reference" in roles:
            others.append(None if name in ("forget_quality", "ks") else metrics.get(f"{group}.agreement"))
        table.add_row(
            metric.id,
            percent(metric.value),
            "" if metric.low is None else f"{percent(metric.low)}-{percent(metric.high)}",
            *("" if other is None else percent(other.value) for other in others),
            "" if metric.chance is None else percent(metric.chance),
            str(metric.n),
            "" if metric.direction == "none" else metric.direction,
        )
    return table


def _subject_table(result: EvalResult) -> Table:
    rows = [subject for subject in result.subjects if subject.set == "forget"]
    names = dict.fromkeys(name for row in rows for name in row.values)
    # A benchmark has a dozen metrics; a line that nobody can read shows none.
    columns = [name for name in names if len(names) < _MOST_COLUMNS or name.endswith(_ONE_PER_TASK)]
    table = new_table("per subject of the forget set, percent")
    table.add_column("subject", no_wrap=True)
    for name in (*(column.removeprefix("forget.") for column in columns), "n"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.subject, *(percent(row.values.get(name)) for name in columns), str(row.n))
    return table


def gate_table(gates: Sequence[GateOutcome]) -> Table:
    """Gates and whether they hold."""
    table = new_table("gates")
    for column in ("gate", "value", "bound", "result"):
        table.add_column(column, no_wrap=column == "gate")
    for gate in gates:
        numbers = ["not measured" if each is None else f"{each:.4f}" for each in (gate.value, gate.bound)]
        table.add_row(gate.gate, *numbers, "passed" if gate.passed else "FAILED")
    return table


def percent(value: float | None) -> str:
    """A share as people read it."""
    return "n/a" if value is None else f"{100 * value:.1f}"
