"""The command line, ended by signals, and what it says about going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.training.resume.runs import Place, files, journal

STEPS = 16
SLOWLY = ["--progress", "jsonl", "--resume", "--checkpoint-minutes", "0"]


def words(here: Place, out: Path, *more: str) -> list[str]:
    return [
        "unlearn", str(here.model), "--forget", str(here.forget), "--retain", str(here.retain), "-o", str(out),
        "--steps", str(STEPS), "--set", "forget_batch=5", "--set", "retain_batch=6", "--set", "stand_ins=1",
        "--set", "forget_reading=1", "--set", "retain_reading=1", "--set", "retain_drift=9", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(here: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(words(here, out)) == 0
    return files(out)


@pytest.mark.campaign
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_process_that_is_ended_goes_on(
    here: Place, finished: dict[str, bytes], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vkdsurgeon_cli", *words(here, out, *SLOWLY)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    heard = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            heard.append(line)
            if '"event": "step"' in line and '"step": 5,' in line:
                process.send_signal(number)
                break
        heard += process.stderr
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    assert not out.exists()
    kept = journal(out)["passes"]["visual"]["facts"]["step"]
    assert 4 <= kept < STEPS
    told = [json.loads(line) for line in heard if line.startswith("{")]
    assert any("a new run starts" in event.get("text", "") for event in told)
    if status == 130:
        assert told[-1]["event"] == "interrupted"
        assert told[-1]["text"] == f"No output was written; progress is saved in {out}.journal: add --resume."
        assert all(event["time"].endswith("+00:00") for event in told)
    assert run(words(here, out, "--resume")) == 0
    assert files(out) == finished
    assert os.listdir(tmp_path) == ["out"]


def test_a_missed_stop_rule_says_how_to_go_on(here: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    missed = ["--steps", "4", "--set", "extensions=1", "--set", "forget_reading=0", "--set", "step_drift=1e-6"]
    assert run(words(here, out, *missed, "--json")) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["journal"] == f"{out}.journal"
    assert document["stop_rule_written"]["reason"].startswith("not met")
    assert "a larger --set extensions=N (this run had 1)" in captured.err
    record = json.loads((out / "vkdsurgeon.json").read_text())
    assert record["stop_rule_written"] == document["stop_rule_written"]
    # Without --resume the journal stands in the way of another run, and is told.
    assert run(words(here, tmp_path / "other", "--journal", f"{out}.journal")) == 2
    assert "--resume" in capsys.readouterr().err
    more = [*missed, "--set", "forget_reading=1", "--resume", "--journal", f"{out}.journal"]
    assert run(words(here, tmp_path / "other", *more)) == 0
    assert "verdict" not in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


@pytest.mark.parametrize("minutes", ["-1", "nan", "inf"])
def test_a_time_that_is_none(here: Place, tmp_path: Path, minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words(here, tmp_path / "out"), "--checkpoint-minutes", minutes]) == 2
    assert "--checkpoint-minutes" in capsys.readouterr().err


def test_a_dry_run_asks_for_no_journal(here: Place, tmp_path: Path) -> None:
    assert run([*words(here, tmp_path / "out"), "--dry-run", "--resume"]) == 0
    assert os.listdir(tmp_path) == []
