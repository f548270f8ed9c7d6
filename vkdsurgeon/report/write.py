"""From documents to a written report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.report.evidence import gather
from vkdsurgeon.report.page import SignOff, compose
from vkdsurgeon.report.render import check_report, format_of, render
from vkdsurgeon.report.verdict import Check, Status
from vkdsurgeon.results.document import SchemaDocument
from vkdsurgeon.results.read import Source


class ReportResult(SchemaDocument):
    """The result of `vkdsurgeon report`: the path and the verdict.

    Attributes:
        out: The page.
        verdict: `failed` if a gate failed; `passed` if all gates hold and every attack has one; `partial` if all hold
            and an attack has none; `unjudged` without gates.
        headline: The verdict in a sentence or two.
        failed: The gates that failed.
        unjudged: Attacks that were measured but have no gate.
        missing: What was not measured, one sentence each.
        checks: All gates with their outcome; not part of the document.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/report/1"

    out: str
    verdict: Status
    headline: str
    failed: list[str]
    unjudged: list[str]
    missing: list[str]
    checks: tuple[Check, ...] = Field(default=(), exclude=True)


def write_page(
    sources: Sequence[Source],
    output: Path,
    *,
    form: str | None = None,
    title: str | None = None,
    sign_off: SignOff | None = None,
    include_examples: bool = False,
) -> ReportResult:
    """Write the evidence about one model as one page.

    Args:
        sources: The documents.
        output: The page; an earlier report there is replaced, nothing else ever is.
        form: `html` or `md`; None goes by the output's suffix.
        title: Heading, in place of one made of the product.
        sign_off: What the block at the end says.
        include_examples: Show names, questions and answers where the documents hold them.

    Raises:
        UserError: The documents do not belong together, or the page cannot be written.
    """
    chosen = format_of(output, form)
    check_report(output)
    page = compose(gather(sources), title=title, sign_off=sign_off or SignOff(), include_examples=include_examples)
    write_whole(output, render(page, chosen))
    verdict = page.verdict
    return ReportResult(
        out=str(output),
        verdict=verdict.status,
        headline=verdict.headline,
        failed=[check.text for check in verdict.checks if not check.passed],
        unjudged=list(verdict.unjudged),
        missing=list(verdict.missing),
        checks=verdict.checks,
    )
