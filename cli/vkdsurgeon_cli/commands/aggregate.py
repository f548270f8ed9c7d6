"""`vkdsurgeon aggregate`: one table over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon_cli.commands.eval_ import deliver, new_table, percent, stack
from vkdsurgeon_cli.options import JsonOption
from vkdsurgeon_cli.output import Output

if TYPE_CHECKING:
    from vkdsurgeon.evaluation.aggregate import AggregateResult


# In the document, as in eval's; the table is about the models themselves.
_BESIDE = ("reference", "gold", "delta", "gap", "room")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("aggregate")(aggregate_command)


def aggregate_command(
    documents: Annotated[
        list[Path], typer.Argument(metavar="DOCUMENTS...", help="What eval wrote for two or more models, asked alike.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result to this JSON file too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Average evaluations of models that differ by their seed only.

    Means come with Student's 95 % intervals over the models: they speak about other seeds, on the same questions.
    """
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.aggregate import aggregate
    from vkdsurgeon.results.evaluation import EvalResult, check_writable
    from vkdsurgeon.results.read import read_source

    if output is not None:
        check_writable(output)
    if output is not None and any(path.resolve() == output.resolve() for path in documents):
        raise UserError("the output is one of the documents", where=output, remedy="name another file")
    found = []
    for path in documents:
        document = read_source(path).document
        if not isinstance(document, EvalResult):
            raise UserError("this is no evaluation", where=path, expected="what eval wrote")
        found.append(document)
    result = aggregate(found, documents)
    deliver(result, output, Output(as_json), lambda: stack([_table(result)]))


def _table(result: AggregateResult) -> Table:
    table = new_table(f"percent, mean over {len(result.models)} models with 95 % intervals")
    table.add_column("metric", no_wrap=True)
    for column in ("mean", "interval", "deviation", "each", "chance", "n"):
        table.add_column(column, justify="right")
    table.add_column("better")
    for metric in result.metrics:
        if metric.id.split(".", 1)[0] in _BESIDE:
            continue
        table.add_row(
            metric.id,
            percent(metric.mean),
            "" if metric.low is None else f"{percent(metric.low)} to {percent(metric.high)}",
            "" if metric.deviation is None else percent(metric.deviation),
            ", ".join(percent(value) for value in metric.values),
            "" if metric.chance is None else percent(metric.chance),
            str(metric.n),
            "" if metric.direction == "none" else metric.direction,
        )
    return table
