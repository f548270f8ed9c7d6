"""How a command is made: option groups become options, and help shows usage, examples, then the groups.

A command's function takes groups, dataclasses whose fields are options, instead of thirty parameters that it would have
to copy. A group that has a `panel` gives its options a heading in the help; those that it names as `rare` are shown by
`--help-all` alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ParameterInfo

from vkdsurgeon.errors import SurgeryError
from vkdsurgeon_cli.launched import refuse_several
from vkdsurgeon_cli.naming import use_options

RARE = "Rarely needed"
# The command that several processes can make together.
SHARED = "unlearn"
_GENERAL = "Options"
_HELP_ALL = "--help-all"
# What click says of a range, such as `; x>=1`: the message about a number outside of it says so, too.
BOUNDS = re.compile(r"  \[[\d.<=]*x[<>=]+[\d.]+\]|; [\d.<=]*x[<>=]+[\d.]+")
SETTINGS = {"help_option_names": ["-h", "--help"]}


class Interrupted(Exception):
    """Ctrl-C, or a pipeline that was cancelled; the message says what is left of the work."""


class OutputWritten(Interrupted):
    """Interrupted when the output was there already; the message says so."""


class ResultUnwritten(SurgeryError):
    """The file of a result could not be written. The result stands on stdout, which gets nothing more."""


def add_command(
    app: typer.Typer, name: str, function: Callable[..., None], *examples: str, summary: str | None = None
) -> None:
    """Add a command.

    Args:
        app: Where to.
        name: What it is called.
        function: What it does; its docstring is the help.
        examples: Command lines that the help shows, without `vkdsurgeon`.
        summary: One short line for the list of commands, where the help's first sentence is too long for it.
    """
    lines = "\n".join(line for each in examples for line in _lines(f"vkdsurgeon {each}"))
    app.command(name, cls=_Command, epilog=lines, short_help=summary)(_expanded(function))


def _lines(example: str) -> list[str]:
    *begun, last = textwrap.wrap(example, 76, break_long_words=False, break_on_hyphens=False, subsequent_indent="    ")
    return [*(f"{line} \\" for line in begun), last]


class _Command(TyperCommand):
    """Help without boxes, one line per option where it fits: it has to be read in a log, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Print the whole help for `--help-all` and end, as `--help` does; else parse as click does."""
        if _HELP_ALL in args:
            ctx.meta[_HELP_ALL] = True
            typer.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; from here on, messages name its options."""
        use_options(self.get_params(ctx))
        if ctx.command.name != SHARED:
            refuse_several(ctx.command_path)
        return super().invoke(ctx)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, as they are typed."""
        words = [_name_of(each) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        formatter.write_usage(ctx.command_path, " ".join([*words, "[OPTIONS]"]))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, what it does, examples, arguments, then options by their panel."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            for line in (self.epilog or "").splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                panels.setdefault("Arguments", []).append((_name_of(parameter), getattr(parameter, "help", "")))
            else:
                panel = getattr(parameter, "rich_help_panel", None) or _GENERAL
                panels.setdefault(panel, []).append((record[0], BOUNDS.sub("", record[1])))
        # --help itself belongs to no group, and stands last.
        general = panels.pop(_GENERAL, [])
        rare = panels.pop(RARE, [])
        if rare and _HELP_ALL in ctx.meta:
            panels[RARE] = rare
        elif rare:
            general.append((_HELP_ALL, f"Show {len(rare)} options that are rarely needed, too."))
        for panel, records in {**panels, _GENERAL: general}.items():
            with formatter.section(panel):
                formatter.write_dl(records, col_max=26)


def _name_of(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _expanded(function: Callable[..., None]) -> Callable[..., None]:
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += _options_of(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        with contextlib.ExitStack() as stack:
            for name, group in groups.items():
                given = {each.name: arguments.pop(each.name) for each in dataclasses.fields(group)}
                arguments[name] = group(**given)
                if hasattr(group, "close"):
                    stack.callback(arguments[name].close)
            try:
                function(**arguments)
            except KeyboardInterrupt as stop:
                # Typers make an exit status of it, and lose what it says.
                raise Interrupted(*stop.args) from stop

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    panel = getattr(group, "panel", None)
    made = []
    for each in dataclasses.fields(group):
        default = inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default
        rare = each.name in getattr(group, "rare", ())
        annotation = _in_panel(hints[each.name], RARE if rare else panel)
        made.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return made


def _in_panel(annotation: Any, panel: str | None) -> Any:
    kind, option = annotation.__origin__, annotation.__metadata__[0]
    assert isinstance(option, ParameterInfo)
    if panel is None or option.rich_help_panel is not None:
        return annotation
    placed = copy.copy(option)
    placed.rich_help_panel = panel
    return Annotated[kind, placed]
