"""A run of several processes is the run of one, to rounding; the first process alone writes and is heard."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes.group import together
from tests.training.resume.runs import RECIPE, Place, asked, files, journal, place
from vkdsurgeon.checkpoint.inventory import read_tensor, take_inventory
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.pipeline.run import run
from vkdsurgeon.training.events import Event

SHORT = RECIPE.model_copy(update={"steps": 3, "extensions": 0, "copies": 1, "step_drift": 1e-3})
ATTACKED = SHORT.model_copy(update={"tamper_weight": 1.0, "tamper_steps": 1, "saliency": "ratio"})
# What the first process tells the others; of the plan's memory they have the rounded parts.
SAME = ("recipe", "stop_rule", "stop_rule_written", "written", "selected_elements", "seconds", "out")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny model and its sets."""
    return place(tmp_path_factory.mktemp("together") / "place")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    inventory = take_inventory(folder)
    return {name: read_tensor(inventory, name).float() for name in inventory.tensors}


def furthest(left: Path, right: Path) -> float:
    """The largest difference of a weight of two checkpoints."""
    one, other = weights(left), weights(right)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def go(here: Place, out: Path, processes: Processes, recipe: Any = SHORT, **changes: Any) -> dict[str, Any]:
    """Run it, and tell what one process saw."""
    heard: list[Event] = []
    result = run(asked(here, out, recipe, processes=processes, **changes), heard.append)
    steps = [event.subject.loss for event in heard if event.kind == "step"]
    return {"document": result.model_dump(mode="json"), "steps": steps, "heard": len(heard)}


@pytest.mark.parametrize(("recipe", "close"), [(SHORT, 1e-6), (ATTACKED, 1e-4)], ids=["plain", "attacked"])
def test_it_is_the_run_of_one_process(here: Place, tmp_path: Path, recipe: Any, close: float) -> None:
    alone = go(here, tmp_path / "1", ALONE, recipe)
    moved = furthest(tmp_path / "1", here.model)
    for count in (2, 3):
        first, *others = together(count, lambda processes: go(here, tmp_path / str(processes.count), processes, recipe))
        assert furthest(tmp_path / "1", tmp_path / str(count)) <= close < moved / 10
        assert first["steps"] == pytest.approx(alone["steps"], rel=1e-4)
        for other in others:
            assert other["heard"] == 0
            assert {key: other["document"][key] for key in SAME} == {key: first["document"][key] for key in SAME}
        told = [run["document"]["stop_rule"][0] for run in (alone, first)]
        assert all(told[0][name] == told[1][name] for name in ("own", "agree", "pictures", "readable", "met"))
        record = json.loads((tmp_path / str(count) / "vkdsurgeon.json").read_text())
        assert record["environment"]["processes"] == count
        assert record["selected_elements"] == alone["document"]["selected_elements"]
