"""Reports, and reading saved results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vkdsurgeon.api.names import PathLike

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vkdsurgeon.pipeline.read_result import AnyResult
    from vkdsurgeon.report.page import SignOff
    from vkdsurgeon.report.write import ReportResult


def write_report(
    results: Iterable[BaseModel | PathLike],
    path: PathLike,
    *,
    form: Literal["html", "md"] | None = None,
    title: str | None = None,
    sign_off: SignOff | Mapping[str, str] | None = None,
    include_examples: bool = False,
) -> ReportResult:
    """Write all evidence about one unlearned model as one page.

        write_report([run, result, found, "patched/vkdsurgeon.json"], "report.html", sign_off={"date": "2026-03-01"})

    Args:
        results: Results of this API, or JSON files that the commands wrote. All must be about the same model, base and
            gold.
        path: The page to write, ending in .html or .md. Only an earlier report is replaced, never another file.
        form: The format, if the ending of `path` does not tell.
        title: The heading; by default made from the product name.
        sign_off: Text for the sign-off block: product, date, request, approver. Missing entries are left blank to be
            filled in by hand.
        include_examples: Show names, questions and answers, where the results contain them.

    Returns:
        The verdict (`passed`, `partial`, `failed` or `unjudged`), which gates failed, and what was not measured.

    Raises:
        UserError: The results are about different models, one of them cannot be part of a report, or the page cannot be
            written.
    """
    from vkdsurgeon.report.page import SignOff
    from vkdsurgeon.report.write import write_page
    from vkdsurgeon.results.read import parse_source, read_source

    sources = [
        read_source(Path(each))
        if isinstance(each, (str, Path))
        else parse_source(each.model_dump_json().encode(), Path(f"<{type(each).__name__}>"))
        for each in results
    ]
    signed = SignOff(**sign_off) if isinstance(sign_off, Mapping) else sign_off
    return write_page(sources, Path(path), form=form, title=title, sign_off=signed, include_examples=include_examples)


def read_result(path: PathLike) -> AnyResult:
    """Read a saved result: a file that a command wrote with `--json` or `-o`, or the text of `model_dump_json`.

        read_result("unlearn.json").passed

    Args:
        path: The JSON file. Its field `schema` says what kind of result it is.

    Returns:
        An object of the class that `unlearn`, `run_method`, `evaluate`, `attack`, `compare`, `diff` or `inspect`
        returned, without fields that are not saved. For `tune` it is a `TuneDocument`.

    Raises:
        UserError: The file cannot be read, or is not a result of this tool.
    """
    from vkdsurgeon.pipeline.read_result import read_result as read

    return read(Path(path))
