"""From a page to HTML or Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder
from vkdsurgeon.report.figures import place
from vkdsurgeon.report.page import Page
from vkdsurgeon.report.text import percent

Format = Literal["html", "md"]
GENERATOR = "vkdsurgeon report"
_MARKDOWN_MARK = f"<!-- {GENERATOR} -->"
_SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}
# What Markdown, or the HTML inside it, would take as markup; a bare `.` or `-` inside a line means nothing.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>&|~$#])|(?<=http)(:)|(?<=https)(:)|(?<=www)(\.)|(?<=\w)(@)(?=\w)")


def format_of(path: Path, asked: str | None) -> Format:
    """The format to write.

    Args:
        path: The output.
        asked: What the user asked for; None goes by the path's suffix.

    Raises:
        UserError: Neither tells.
    """
    found = asked or _SUFFIXES.get(path.suffix.lower())
    if found not in ("html", "md"):
        raise UserError("cannot tell the format", where=path, expected="a name ending in .html or .md, or `format`")
    return found  # type: ignore[return-value]


def check_report(path: Path) -> None:
    """Refuse a place where a report cannot or must not be written.

    Raises:
        UserError: The folder does not exist or is not writable, or something is there that is no earlier report.
    """
    check_folder(path)
    if path.exists() and not _is_report(path):
        raise UserError(
            "the output file exists and is not an earlier report",
            where=path,
            expected="a new file, or a report that may be replaced",
            remedy="choose another file; only reports are overwritten",
        )


def render(page: Page, form: Format) -> str:
    """The report as one text.

    Args:
        page: What to say.
        form: `html`, one page without scripts or anything to load, or `md`, for a model card.
    """
    return _html(page) if form == "html" else _markdown(page)


def _html(page: Page) -> str:
    # The hash is of these very bytes, so the style has to be as it is going to be in the page.
    style = _without_blank_lines(_source("style.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = (
        _environment(markup=True)
        .get_template("page.html.jinja")
        .render(
            page=page,
            style=Markup(style),
            style_hash=f"sha256-{digest}",
            generator=GENERATOR,
            place=place,
            percent=percent,
            pieces=_pieces,
            dict=dict,
        )
    )
    return _without_blank_lines(text).lstrip()


def _markdown(page: Page) -> str:
    template = _environment(markup=False).get_template("card.md.jinja")
    text = template.render(page=page, generator=Markup(_MARKDOWN_MARK), percent=percent)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(*, markup: bool) -> Environment:
    # autoescape escapes for HTML; for Markdown every expression is escaped as it is printed.
    return Environment(
        loader=PackageLoader("vkdsurgeon.report"),
        autoescape=markup,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=None if markup else _escaped,
    )


def _escaped(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else _SPECIAL.sub(_with_backslash, value)


def _with_backslash(match: re.Match[str]) -> str:
    return "\\" + match.group(0)


def _pieces(gate: str) -> list[str]:
    """The pieces of a gate's text, between which a narrow screen may break the line."""
    return re.findall(r"[^.<>=]*[.<>=]+|[^.<>=]+", gate)


def _without_blank_lines(text: str) -> str:
    return re.sub(r"\n\s*\n", "\n", text)


def _source(name: str) -> str:
    loader = PackageLoader("vkdsurgeon.report")
    return loader.get_source(Environment(), name)[0]


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(2048).decode("utf-8", "replace")
    except OSError:
        return False
    return start.startswith(_MARKDOWN_MARK) or f'<meta name="generator" content="{GENERATOR}">' in start
