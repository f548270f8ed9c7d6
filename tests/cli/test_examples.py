"""Command lines that help and docs show are ones that the tool takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from vkdsurgeon_cli.main import app

from vkdsurgeon.config.release import load_release

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


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def test_pipelines_of_the_documents_are_yaml_and_run_what_there_is(tmp_path: Path) -> None:
    """GitHub Actions, GitLab and release files: each parses, and every command of the tool in them is one."""
    found: dict[str, Any] = {}
    for path in DOCUMENTS:
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            document = yaml.safe_load(block)
            if not isinstance(document, dict) or not {"jobs", "release", "model"} & document.keys():
                continue
            lines = [line for text in _strings(document) for line in command_lines(text)]
            for line in lines:
                parsed(line)
            kind = "actions" if "jobs" in document else "gitlab" if "script" in document.get("release", ()) else "plan"
            assert lines or kind == "plan", block
            found[kind] = document
            if kind == "plan":
                (tmp_path / "release.yaml").write_text(block)
    assert set(found) == {"actions", "gitlab", "plan"}
    # PyYAML reads `on` as a truth value.
    assert {True, "jobs"} <= set(found["actions"])
    steps = found["actions"]["jobs"]["release"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    evidence = found["gitlab"]["release"]["artifacts"]["paths"]
    uploaded = next(step["with"]["path"] for step in steps if "upload" in step.get("uses", ""))
    assert uploaded.split() == evidence
    assert load_release(tmp_path / "release.yaml").relearn_gates
