"""Decoded images of a benchmark are gone when the command is, and when it was killed with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from vkdsurgeon.data.miniature.unpack import MiniaturePaths
from vkdsurgeon.files.directories import scratch

KILLED_AT_THE_FIRST_IMAGE = """
import os, signal, sys
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon_cli.main import main

honest = ImageFolder.keep

def keep(*arguments, **options):
    honest(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

ImageFolder.keep = keep
main(sys.argv[1:])
"""


def test_images_of_a_killed_run_go_with_the_next_one(
    miniature: MiniaturePaths, mllmu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", str(miniature.base), "--suite", "mllmu", "--suite-root", str(mllmu), "--split", "forget_5"]
    command = [sys.executable, "-c", KILLED_AT_THE_FIRST_IMAGE, *words]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = tmp_path.iterdir()
    assert len([path for path in (left / "content").rglob("*") if path.is_file()]) == 1
    assert left.stat().st_mode & 0o077 == 0, "nobody else may look"

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Ends for another reason, after the benchmark was read and before a model is loaded.
    assert run([*words, "--gate", "nonsense.accuracy<=0"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_living_owner_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as mine:
        (mine / "image").touch()
        with scratch() as other:
            assert other != mine
        assert [path.name for path in mine.iterdir()] == ["image"]
    assert list(tmp_path.iterdir()) == []
