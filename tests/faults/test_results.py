"""What was measured is printed even where its file cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation import cache as caches
from vkdsurgeon.evaluation.cache import AnswerCache
from vkdsurgeon.results import evaluation as schema


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def _full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))


@pytest.mark.parametrize("more", [(), ("--json",), ("--gate", "text.text.accuracy<=0")])
def test_a_disk_that_is_full_at_the_end(
    facts: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    monkeypatch.setattr(schema, "write_whole", _full)
    words = ["eval", str(facts.base), "--text", str(facts.text), "--limit", "2", "-o", str(tmp_path / "result.json")]
    assert run([*words, *more]) == 1
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert any(metric["id"] == "text.text.accuracy" for metric in found["metrics"])
    assert "No space left on device" in told.err
    assert "it stands on stdout" in told.err


class _Small(BaseModel):
    schema_version: int = 1
    kind: str = "evaluation"
    models: list[str] = []
    metrics: list[str] = []


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    link, behind = tmp_path / "latest.json", tmp_path / "results" / "run.json"
    link.symlink_to(behind)
    with pytest.raises(UserError, match="does not exist"):
        schema.check_writable(link)
    behind.parent.mkdir()
    for _ in range(2):
        schema.check_writable(link)
        schema.write_document(link, _Small())
        assert link.is_symlink()
        assert json.loads(behind.read_text())["kind"] == "evaluation"
    behind.write_text("{}")
    with pytest.raises(UserError, match="not an earlier result"):
        schema.check_writable(link)


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "loop.json"
    link.symlink_to(link)
    with pytest.raises(UserError, match="leads to itself"):
        schema.check_writable(link)


def test_the_same_for_every_command_that_writes_a_result(tmp_path: Path) -> None:
    """No command calls `write_document` past `deliver`."""
    sources = Path(run.__code__.co_filename).parent
    callers = [path.name for path in sources.rglob("*.py") if "write_document(" in path.read_text()]
    assert callers == ["measuring.py"]
    assert issubclass(schema.EvalResult, BaseModel)


def test_a_cache_that_cannot_be_written_loses_no_answer(
    facts: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "eval",
        str(facts.base),
        "--text",
        str(facts.text),
        "--limit",
        "2",
        "--json",
        "--cache",
        str(tmp_path / "c"),
    ]
    monkeypatch.setattr(caches, "write_whole", _full)
    assert run(words) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["metrics"]
    assert told.err.count("No space left on device") == 1
    monkeypatch.undo()
    assert run(words) == 0
    assert run(words) == 0
    assert "2 answers reused" in capsys.readouterr().err


def test_a_kill_while_the_salt_is_written_leaves_a_usable_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", killed)
        patched.setattr(os, "unlink", lambda path: None)
        with pytest.raises(Killed):
            AnswerCache(tmp_path / "cache", print)
    assert len(os.listdir(tmp_path / "cache")) == 1
    salt = AnswerCache(tmp_path / "cache", print).salt
    assert AnswerCache(tmp_path / "cache", print).salt == salt


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    salt = AnswerCache(tmp_path / "cache", print).salt
    assert AnswerCache(tmp_path / "cache", print).salt == salt
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_a_directory_of_other_things_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(UserError, match="not empty and not a cache"):
        AnswerCache(tmp_path, print)
    assert os.listdir(tmp_path) == ["precious"]
