"""Entry point: exit statuses and the command table. Heavy libraries are imported inside the commands only."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

import vkdsurgeon
from vkdsurgeon.checkpoint.offline import stay_offline
from vkdsurgeon.errors import GateFailed, SurgeryError, UserError
from vkdsurgeon.results.envelope import enveloped
from vkdsurgeon_cli import streams
from vkdsurgeon_cli.command import SETTINGS, Interrupted, OutputWritten, ResultUnwritten
from vkdsurgeon_cli.commands import COMMANDS
from vkdsurgeon_cli.launched import follows
from vkdsurgeon_cli.naming import with_options
from vkdsurgeon_cli.removed import advice_on

# Newer typers carry a click of their own, so the class is found through typer, whichever click it uses.
_UsageProblem: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_FAULTS_OF_A_PATH = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)

_ERROR = "vkdsurgeon/error/1"
DONE, UNEXPECTED, USER_INPUT, GATE, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="vkdsurgeon",
    help="Make a multimodal LLM forget what someone or something looks like. Only the vision tower and the projector "
    "are trained (with --decoder-pass or another --method, also selected weights of the language model); "
    "everything else in the checkpoint stays byte-identical.",
    context_settings=SETTINGS,
    epilog="Examples: `vkdsurgeon demo`; `vkdsurgeon unlearn model/ --forget f.jsonl -o patched/`; `vkdsurgeon "
    "unlearn -h` for more. Exit status: 0 done, 1 unexpected failure, 2 wrong input, 3 a check did not pass "
    "(the result is written), 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vkdsurgeon {vkdsurgeon.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the whole tool."""


for register in COMMANDS:
    register(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with a status that means something."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # A pipeline that is cancelled gets the same clean-up as a person who presses Ctrl-C; so does a lost terminal.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    streams.steady()
    if follows():
        streams.hush()
    elif streams.wants_lines(arguments):
        streams.write_lines()
    status = run(arguments)
    streams.finish()
    # An interpreter that ends takes torch and transformers down object by object: a second that frees nothing.
    atexit._run_exitfuncs()
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: The words after the program's name.

    Returns:
        The exit status.
    """
    stay_offline()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle OpenMP threads that spin take the cores from everybody else on a shared machine; read when torch starts.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, prog_name="vkdsurgeon", standalone_mode=False)
        if status == INTERRUPTED:
            # Some typers turn Ctrl-C into a status by themselves.
            raise KeyboardInterrupt
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except UserError as error:
        said = {name: text and with_options(text) for name, text in error.as_dict().items()}
        _report("error", str(error), arguments, {"status": USER_INPUT, **said})
        return USER_INPUT
    except GateFailed as failed:
        # The result, gates included, is on stdout already.
        for sentence in failed.failures:
            _tell("gate failed", with_options(sentence), arguments)
        return GATE
    except (Interrupted, typer.Abort, KeyboardInterrupt) as stop:
        kept = f"; {stop}" if str(stop) else ""
        told = str(stop) if isinstance(stop, OutputWritten) else f"No output was written{kept}."
        _report("interrupted", told, arguments, {"status": INTERRUPTED})
        return INTERRUPTED
    except _UsageProblem as error:
        error.show(file=sys.stderr)
        advice = advice_on(error)
        if advice is not None:
            _tell("hint", advice, arguments)
        if as_json:
            _as_document("error", {"status": USER_INPUT, "what": error.format_message(), "remedy": advice})
        return USER_INPUT
    except ResultUnwritten as error:
        _tell("failed", str(error), arguments)
        return UNEXPECTED
    except SurgeryError as error:
        _report("failed", str(error), arguments, {"status": UNEXPECTED, "what": with_options(str(error))})
        return UNEXPECTED
    except OSError as error:
        status = USER_INPUT if error.errno in _FAULTS_OF_A_PATH else UNEXPECTED
        where = f"{error.filename}: " if error.filename else ""
        facts: dict[str, object] = {"status": status, "where": error.filename, "what": error.strerror}
        _report("error", f"{where}{error.strerror or error}", arguments, facts)
        return status
    except Exception as error:
        traceback.print_exc()
        _report("unexpected failure", f"{type(error).__name__}: {error}", arguments, {"status": UNEXPECTED})
        return UNEXPECTED


def _report(kind: str, text: str, arguments: list[str], facts: dict[str, object]) -> None:
    _tell(kind, with_options(text), arguments)
    if "--json" in arguments:
        _as_document(kind, facts)


def _tell(kind: str, text: str, arguments: list[str]) -> None:
    if streams.wants_lines(arguments):
        print(streams.event_line({"event": kind, "text": text}), end="", file=sys.stderr)
    elif kind == "interrupted":
        print(streams.printable(f"Interrupted. {text}"), file=sys.stderr)
    else:
        print(streams.printable(f"{kind}: {text}"), file=sys.stderr)


def _as_document(kind: str, facts: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        # A reader that went away changes nothing about the status.
        print(json.dumps(enveloped({"schema": _ERROR, "error": {"kind": kind, **facts}}), indent=2), flush=True)
