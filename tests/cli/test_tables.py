"""Tables that fit, and what they say of the rest."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from vkdsurgeon_cli.tables import Sheet, pairs


def render(what: RenderableType, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(what)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def sheet(*more: str) -> Sheet:
    made = Sheet("a title")
    made.column("metric", "left")
    made.column("model")
    made.column("interval", drop=1)
    made.column("of\nall", drop=2)
    made.row("forget.vqa[bold].accuracy", "12.5", "10.0-15.0", "240", *more)
    return made


def test_columns_go_by_their_number_and_are_named() -> None:
    wide = render(sheet().fitted(80), 80)
    assert any("forget.vqa[bold].accuracy 12.5 10.0-15.0 240" in " ".join(line.split()) for line in wide)
    assert not any("--wide" in line for line in wide)
    narrow = render(sheet().fitted(45), 45)
    assert "not shown: of all (--wide)" in narrow
    assert "10.0-15.0" in "\n".join(narrow)
    narrower = render(sheet().fitted(36), 36)
    assert "not shown: interval, of all (--wide)" in narrower
    assert max(map(len, narrower)) <= 36


def test_a_column_is_explained_where_it_is_shown() -> None:
    made = sheet("3.0")
    made.column("apart", drop=3, note="apart: divergence from gold")
    assert render(made.fitted(80), 80)[0] == "a title; apart: divergence from gold"
    assert render(made.fitted(45), 45)[0] == "a title"


def test_a_name_that_is_too_long_is_folded_and_no_number_is_lost() -> None:
    told = render(sheet().fitted(20), 20)
    assert "12.5" in "\n".join(told)
    assert max(len(line) for line in told if "not shown" not in line) <= 36
    assert "".join(line.split()[0] for line in told[4:-2] if line.split()).startswith("forget.vqa")


def test_pairs_wrap_sentences_and_break_no_path() -> None:
    path = "/a/very/long/path/" + "x" * 80
    told = pairs([("written", path), ("stop rule", "word " * 30)], 80).plain.splitlines()
    assert told[0] == f"written    {path}"
    assert all(len(line) <= 80 for line in told[1:])
    assert told[2].startswith(" " * 11)
