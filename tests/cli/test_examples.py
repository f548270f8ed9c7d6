"""Command lines that help and docs show are ones that the tool takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from vkdsurgeon_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
# Where a reader fills something in, or a shell would.
ABBREVIATED = re.compile(r"\.\.\.|\$|\||<|>")


def command_lines(text: str) -> Iterator[str]:
    """Lines that begin with the tool's name, continued ones whole, without comments and redirections."""
    whole = re.sub(r"\\\n\s*", " ", text)
    yield from (
        line.strip().split(" #")[0].split(" > ")[0]
        for line in whole.splitlines()
        if re.match(r"\s*vkdsurgeon \w", line)
    )


def shown(path: Path) -> list[str]:
    blocks = re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = (line for block in blocks for line in command_lines(block))
    return [line for line in lines if not ABBREVIATED.search(re.sub(r'"[^"]*"', "", line))]


def parsed(line: str) -> None:
    """Parse a line without doing what it says."""
    words = shlex.split(line)[1:]
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def helps(command: Any) -> Iterator[Any]:
    for each in command.commands.values():
        if hasattr(each, "commands"):
            yield from helps(each)
        else:
            yield each


@pytest.mark.parametrize("command", list(helps(get_command(app))), ids=lambda each: str(each.name))
def test_examples_of_help(command: Any) -> None:
    lines = list(command_lines(command.epilog))
    assert lines
    for line in lines:
        parsed(line)


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_examples_of_the_documents(path: Path) -> None:
    for line in shown(path):
        parsed(line)


def test_there_are_examples_to_check() -> None:
    assert sum(len(shown(path)) for path in DOCUMENTS) >= 8
