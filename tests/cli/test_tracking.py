"""`--track`: the numbers of a run reach a real log, nothing else does, and no tracker can end a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from vkdsurgeon_cli.main import run
from vkdsurgeon_cli.tracking import Tracking, numbers_of

from vkdsurgeon.training.events import Event, Step

STEPS = 3
RECIPE = [f"--set={key}" for key in ("forget_batch=4", "retain_batch=4", "extensions=0", "retain_drift=100")]


def words(llava: Path, sets: dict[str, Path], out: Path) -> list[str]:
    given = [str(llava), "--forget", str(sets["forget"]), "--retain", str(sets["retain"]), "-o", str(out)]
    return ["unlearn", *given, "--steps", str(STEPS), *RECIPE]


def test_tensorboard_holds_every_step(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = tmp_path / "log"
    run([*words(llava, sets, tmp_path / "out"), "--track", f"tensorboard:{log}", "--json"])
    result = json.loads(capsys.readouterr().out)
    read = EventAccumulator(str(log))
    read.Reload()
    tags = read.Tags()["scalars"]
    assert {"step/loss", "step/forget_loss", "step/retain_drift", "step/similarity"} <= set(tags)
    assert not [tag for tag in tags if tag.endswith(("/step", "/steps", "/seconds_left"))]
    losses = read.Scalars("step/loss")
    assert [each.step for each in losses] == list(range(1, STEPS + 1))
    assert result["out"] == str(tmp_path / "out")
    # What is logged tells of nobody.
    content = b"".join(path.read_bytes() for path in log.iterdir())
    assert b"person" not in content
    assert str(sets["forget"]).encode() not in content


def test_trackio_holds_every_step(
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for module in [each for name, each in sys.modules.items() if name.startswith("trackio")]:
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    run([*words(llava, sets, tmp_path / "out"), "--track", "trackio:case", "--json"])
    # What it prints stays off stdout.
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "out")
    (name,) = SQLiteStorage.get_runs("case")
    logged = SQLiteStorage.get_logs("case", name)
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    assert all("step/loss" in row for row in logged)
    assert trackio.__version__


def test_wandb_writes_an_offline_run_without_paths(
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run([*words(llava, sets, tmp_path / "out"), "--track", "wandb", "--json"])
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "out")
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert content.count(b"step/loss") >= STEPS
    for path in (tmp_path / "wandb").rglob("*"):
        if path.is_file():
            assert str(sets["forget"]).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_library_is_refused_before_any_work(
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert run([*words(llava, sets, tmp_path / "out"), "--track", name]) == 2
    assert f"pip install 'vkdsurgeon[{name}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_tracker_is_refused(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    assert run([*words(llava, sets, tmp_path / "out"), "--track", "paper"]) == 2
    assert not list(tmp_path.iterdir())


def test_runs_of_one_log_are_told_apart() -> None:
    facts = {"model": "gold", "case": "people.50", "seed": 1, "step": 2, "loss": 0.5}
    assert numbers_of(Event("attack", "x", facts)) == ({"attack/gold/people.50/1/loss": 0.5}, 2)
    step = Step(7, 9, 1.0, {"forget_kl": 2.0}, 3.0)
    assert numbers_of(Event.step(step, "decoder step")) == (
        {"decoder_step/loss": 1.0, "decoder_step/forget_kl": 2.0},
        7,
    )
    trial = SimpleNamespace(number=4, values={"forget": 0.1})
    assert numbers_of(Event("trial", facts={"trials": 9}, subject=trial)) == ({"trial/forget": 0.1}, 4)
    for event in (Event.stage("x"), Event.note("x"), Event("answers", "x", {"done": 1, "total": 2})):
        assert numbers_of(event) is None


def test_a_tracker_that_fails_is_told_once_and_ends_nothing() -> None:
    class Full:
        def add(self, numbers: object, step: int) -> None:
            raise OSError("disk full")

        def close(self) -> None:
            raise OSError("disk full")

    tracking, told, heard = Tracking(track="tensorboard"), [], []
    tracking.__dict__["tracker"] = Full()
    listener = tracking.heard_by(heard.append, told.append)
    for number in (1, 2):
        listener(Event.step(Step(number, 2, 0.5)))
    tracking.close()
    assert len(heard) == 2
    assert told == ["--track stopped: OSError: disk full"]
