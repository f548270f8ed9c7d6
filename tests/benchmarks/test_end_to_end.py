"""The end-to-end benchmark runs, and times nothing that does different work."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.end_to_end.__main__ import main
from benchmarks.end_to_end.rates import check


@pytest.mark.slow
def test_all_ways_run_and_account_for_their_time(capsys: pytest.CaptureFixture[str]):
    assert main(["--size", "tiny", "--device", "cpu", "--threads", "1", "--rounds", "1", "--steps", "1"]) == 0
    rows = {row["provider"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == {"ours", "plain loop", "usual way"}
    for name, row in rows.items():
        assert row["images_per_second"] > 0
        assert set(row["ratios"]) == set(rows) - {name}
        stages = row["seconds_per_step"]
        assert set(stages) == {"input", "teacher", "forward", "loss", "backward", "step", "other"}
        assert all(seconds > 0 for stage, seconds in stages.items() if stage != "other")
        assert stages["other"] < 0.5 * sum(stages.values())
    assert rows["ours"]["seconds_per_step"]["teacher"] < rows["plain loop"]["seconds_per_step"]["teacher"]


def test_tiny_figures_are_never_recorded(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as refusal:
        main(["--size", "tiny", "--record"])
    assert refusal.value.code == 2
    assert "mean nothing" in capsys.readouterr().err


def _way(value: torch.Tensor, loss: float) -> SimpleNamespace:
    start, mask = torch.zeros(4), torch.tensor([True, True, False, False])
    return SimpleNamespace(masks={"w": mask}, parameters={"w": value}, start={"w": start}, first_loss=loss)


def test_ways_that_do_different_work_are_not_timed():
    sound, moved = torch.tensor([1.0, 2.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 0.0, 3.0])
    check({"ours": _way(sound, 1.0), "plain loop": _way(sound, 1.001)})
    with pytest.raises(AssertionError, match="plain loop: a frozen element"):
        check({"ours": _way(sound, 1.0), "plain loop": _way(moved, 1.0)})
    with pytest.raises(AssertionError, match="ours: nothing moved"):
        check({"ours": _way(torch.zeros(4), 1.0), "plain loop": _way(sound, 1.0)})
    with pytest.raises(AssertionError, match="the first loss is"):
        check({"ours": _way(sound, 1.0), "plain loop": _way(sound, 1.1)})
