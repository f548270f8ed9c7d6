"""The page of the exit codes."""

from __future__ import annotations

from vkdsurgeon_cli import main as cli

from docs.generate.markdown import MADE, row

STATUSES: tuple[tuple[str, str, str], ...] = (
    ("DONE", "Done.", "Nothing."),
    ("UNEXPECTED", "Something failed that you did not cause: a full disk, a file that changed under way, a bug. "
     "Nothing half-written stays.", "Try again; `unlearn` and `tune` go on with `--resume`, `release` by itself."),
    ("USER_INPUT", "The input is wrong. The message names the file, line and value, what was expected and what to do. "
     "Nothing was written.", "Mend the input. Trying again does not help."),
    ("GATE", "The check did not pass: a gate failed, the stop rule or the gate of the decoder pass was not met, "
     "`verify`, `diff` or `reproduce` found a difference, or no recipe satisfies `--pick`. The result is written; "
     "`unlearn` writes its best state.", "Do not release. Read the result: it names what failed."),
    ("INTERRUPTED", "Interrupted by Ctrl-C, SIGTERM or a lost terminal. No output was written.",
     "`unlearn`, `tune`, `compare` and `release` go on where they were: the first two with `--resume`."),
)  # fmt: skip


def statuses_page() -> str:
    rows = [row(str(getattr(cli, name)), meaning, action) for name, meaning, action in STATUSES]
    return f"""# Exit codes

{MADE}
| status | meaning | what to do |
|-|-|-|
{"".join(rows)}
These are the same for every command. stdout carries data only, and messages go to stderr. What exactly happens when
something goes wrong, and the test that guards it: [faults and their outcomes](reliability.md).
"""
