"""The page for `man`."""

from __future__ import annotations

import re
from typing import Any

from typer.main import get_command
from vkdsurgeon_cli import main as cli
from vkdsurgeon_cli.command import BOUNDS

from docs.generate.commands import commands
from docs.generate.statuses import STATUSES
from vkdsurgeon import __version__


def man_page() -> str:
    """The help of all commands as one page for `man`; rarely needed options as well."""
    made = '.\\" made by docs/generate from the code: change the code, then run `python -m docs.generate`\n'
    text = f"""{made}.TH VKDSURGEON 1 "" "vkdsurgeon {__version__}" "User Commands"
.SH NAME
vkdsurgeon \\- make a multimodal LLM forget what someone or something looks like
.SH SYNOPSIS
.B vkdsurgeon
.I COMMAND
[OPTIONS]
.SH DESCRIPTION
{_roff(cli.app.info.help)}
.SH COMMANDS
"""
    for words, command in commands(get_command(cli.app), ["vkdsurgeon"]):
        text += _man_command(words, command)
    text += ".SH EXIT STATUS\n"
    for name, meaning, action in STATUSES:
        text += f".TP\n.B {getattr(cli, name)}\n{_roff(f'{meaning} To do: {action}')}\n"
    return text


def _man_command(words: list[str], command: Any) -> str:
    context = command.context_class(command, info_name=words[-1])
    arguments, options = [], []
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if each.param_type_name == "argument":
            arguments.append((each.metavar or each.name.upper(), each.help or ""))
        elif record is not None and each.name != "help":
            options.append((record[0], BOUNDS.sub("", record[1])))
    usage = " ".join([*words[1:], *(name for name, _ in arguments), "[OPTIONS]"])
    text = f".SS {_roff(usage)}\n"
    for paragraph in (command.help or "").replace("\b", "").split("\n\n"):
        text += f"{_roff(paragraph)}\n.PP\n"
    text += "".join(f".TP\n.B {_roff(name)}\n{_roff(meaning)}\n" for name, meaning in [*arguments, *options])
    examples = "\n".join(map(_roff_line, (command.epilog or "").splitlines()))
    return f"{text}.PP\nExamples:\n.PP\n.EX\n{examples}\n.EE\n"


def _roff(text: str) -> str:
    """Text as one line of roff."""
    return _roff_line(re.sub(r"\s+", " ", text).strip())


def _roff_line(line: str) -> str:
    escaped = line.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins so would be a request.
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
