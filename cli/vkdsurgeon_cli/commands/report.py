"""`vkdsurgeon report`: one page for the person who signs the release."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing

if TYPE_CHECKING:
    from vkdsurgeon.report.write import ReportResult


class FormatName(str, Enum):
    """What is written."""

    html = "html"
    md = "md"


@dataclass(frozen=True, kw_only=True)
class Signing:
    """What the block at the end of the report says; the rest is left to be filled in by hand."""

    product: Annotated[str, typer.Option("--product", metavar="TEXT", help="Name of the product.")] = ""
    date: Annotated[str, typer.Option("--date", metavar="TEXT", help="Date of the report; otherwise left blank.")] = ""
    request: Annotated[
        str, typer.Option("--request-id", metavar="TEXT", help="The request, such as a ticket number.")
    ] = ""
    approver: Annotated[str, typer.Option("--approver", metavar="TEXT", help="Name of the person who signs.")] = ""
    panel: ClassVar[str] = "Sign-off"


def report(
    *,
    documents: Annotated[
        list[Path],
        typer.Argument(
            metavar="DOCUMENTS...",
            help="JSON results about one model: from unlearn --json, eval, attack, diff --json, compare, and the "
            "vkdsurgeon.json of a patched checkpoint.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page: report.html, or card.md for a model card.")
    ],
    format_: Annotated[
        FormatName | None,
        typer.Option("--format", metavar="NAME", help="html or md. [default: from the file name]"),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="The heading. [default: made from the product]")
    ] = None,
    include_examples: Annotated[
        bool,
        typer.Option(
            "--include-examples",
            help="Show names, questions and answers, if the results have them (eval --include-examples).",
        ),
    ] = False,
    signing: Signing,
    printing: Printing,
) -> None:
    """Write all evidence about one unlearned model as one page: HTML, or Markdown for a model card.

    The page shows the gates, what was measured compared with base and gold, what attacks brought back, which weights
    changed, and what all this does not show. No model is loaded or run. Images, names and answers do not appear unless
    --include-examples is given. Results about different weights are refused. The status is 0 whatever the verdict;
    `eval` and `attack` end with status 3 if a gate fails.
    """
    import vkdsurgeon
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.report.render import check_report, format_of

    format_of(output, format_.value if format_ else None)
    check_report(output)
    if any(path.resolve() == output.resolve() for path in documents):
        raise UserError("the output is also one of the input files", where=output, remedy="name another file")
    out = printing.sink
    if include_examples and not any(_has_examples(path) for path in documents):
        out.warn("--include-examples: no document holds examples; evaluate with eval --include-examples")
    result = vkdsurgeon.write_report(
        documents,
        output,
        form=format_.value if format_ else None,
        title=title,
        sign_off=vars(signing),
        include_examples=include_examples,
    )
    from vkdsurgeon_cli.tables import pairs

    out.document(result.model_dump(mode="json"), lambda: pairs(_rows(result), out.columns), kept=output)


def _has_examples(path: Path) -> bool:
    from vkdsurgeon.results.evaluation import EvalResult
    from vkdsurgeon.results.read import read_source

    document = read_source(path).document
    return isinstance(document, EvalResult) and bool(document.examples)


def _rows(result: ReportResult) -> list[tuple[str, object]]:
    missed = (each for each in result.checks if not each.passed)
    return [
        ("verdict", f"{result.verdict}: {result.headline}"),
        *(("failed", f"{each.text} ({each.origin}: {each.measured})") for each in missed),
        *(("not judged", title) for title in result.unjudged),
        *(("not shown", sentence) for sentence in result.missing),
        ("written", result.out),
    ]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "report",
        report,
        "report results/*.json patched/vkdsurgeon.json -o report.html",
        'report eval.json relearn.json -o card.md --product "Assistant 2.1" --date 2026-03-01',
        summary="Write all evidence about one unlearned model as one page.",
    )
