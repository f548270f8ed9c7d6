"""The page of the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner
from vkdsurgeon_cli import main as cli

from docs.generate.markdown import MADE


def commands_page() -> str:
    text = f"""# Commands

{MADE}
`vkdsurgeon COMMAND -h` shows the options, `--help-all` also those that are rarely needed; here are all of them.
`-o`/`--output`, `--json`,
`--progress` and `--wide` mean the same everywhere, and `--reference` is another name of `--base`.
`vkdsurgeon --install-completion` sets up the shell.
"""
    for words, command in commands(get_command(cli.app), ["vkdsurgeon"]):
        paragraphs = (command.help or "").replace("\b", "").split("\n\n")
        told = "\n\n".join(re.sub(r"\s+", " ", each).strip() for each in paragraphs)
        text += f"\n## {' '.join(words[1:])}\n\n{told}\n\n```bash\n{command.epilog}\n```\n"
        text += f"\n```text\n{_options_of(words[1:])}\n```\n"
    return text


def _options_of(words: list[str]) -> str:
    """What the help says after the examples, every option included."""
    shown = CliRunner().invoke(cli.app, [*words, "--help-all"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    if not shown.startswith("Usage"):
        shown = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    return shown.partition("\nExamples:\n")[2].partition("\n\n")[2].rstrip()


def commands(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, [*words, name])
        else:
            yield [*words, name], command
