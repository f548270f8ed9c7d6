"""`vkdsurgeon aggregate`: one table over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.measuring import deliver
from vkdsurgeon_cli.options import OutputOption, TablePrinting

if TYPE_CHECKING:
    from vkdsurgeon.evaluation.aggregate import AggregateResult
    from vkdsurgeon_cli.tables import Sheet


# In the document, as in eval's; the table is about the models themselves.
_BESIDE = ("reference", "gold", "delta", "gap", "room")


def aggregate_command(
    *,
    documents: Annotated[
        list[Path], typer.Argument(metavar="DOCUMENTS...", help="Two or more results of eval, with the same questions.")
    ],
    output: OutputOption = None,
    printing: TablePrinting,
) -> None:
    """Average the evaluations of models that differ only in their seed.

    The result has means with Student's 95 % intervals over the models. They describe the spread over seeds, for the
    same questions.
    """
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.aggregate import aggregate
    from vkdsurgeon.results.evaluation import EvalResult, check_writable
    from vkdsurgeon.results.read import read_source

    if output is not None:
        check_writable(output)
    if output is not None and any(path.resolve() == output.resolve() for path in documents):
        raise UserError("the output is also one of the input files", where=output, remedy="name another file")
    found = []
    for path in documents:
        document = read_source(path).document
        if not isinstance(document, EvalResult):
            raise UserError("this file is not a result of eval", where=path, expected="what eval wrote")
        found.append(document)
    result = aggregate(found, documents)
    out = printing.sink
    deliver(result, output, out, lambda: _sheet(result).fitted(out.columns))


def _sheet(result: AggregateResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet, or_blank, percent

    sheet = Sheet(f"percent, mean over {len(result.models)} models with 95 % intervals")
    sheet.column("metric", "left")
    sheet.column("mean")
    sheet.column("interval")
    for head, drop in (("deviation", 3), ("each", 2), ("chance", 4), ("n", 5)):
        sheet.column(head, drop=drop)
    sheet.column("better", "left", drop=6)
    for metric in result.metrics:
        if metric.id.split(".", 1)[0] in _BESIDE:
            continue
        sheet.row(
            metric.id,
            percent(metric.mean),
            "" if metric.low is None else f"{percent(metric.low)} to {percent(metric.high)}",
            or_blank(metric.deviation),
            ", ".join(percent(value) for value in metric.values),
            or_blank(metric.chance),
            str(metric.n),
            "" if metric.direction == "none" else metric.direction,
        )
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "aggregate",
        aggregate_command,
        "aggregate seed0/eval.json seed1/eval.json seed2/eval.json -o mean.json",
        summary="Average evaluations of models that differ only in their seed.",
    )
