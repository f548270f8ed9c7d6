"""docs/release_pipeline.sh as a pipeline meets it: real commands, a tiny model, and a status for every end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_llava import NAMES, world
from tests.warm import warm_command

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "release_pipeline.sh"
RECIPE = (
    "{steps: 8, forget_batch: 8, retain_batch: 8, extensions: 0, forget_reading: 1.0, retain_reading: 1.0, "
    "retain_drift: 100}"
)


@pytest.fixture(scope="module")
def warm() -> Iterator[str]:
    with warm_command() as command:
        yield command


def pipeline(*words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = {"VKDSURGEON": f"{sys.executable} -m vkdsurgeon_cli", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **command, **settings}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = world()
    folder = tmp_path_factory.mktemp("records")
    for picture in facts.forget.parent.glob("*.png"):
        shutil.copy(picture, folder)
    for name, source in (
        ("forget", facts.forget),
        ("forget_heldout", facts.heldout),
        ("retain", facts.retain),
        ("retain_heldout", facts.retain),
        ("text", facts.text),
    ):
        shutil.copy(source, folder / f"{name}.jsonl")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.mark.slow
def test_everything_holds(records: Path, warm: str, tmp_path: Path):
    out = tmp_path / "out"
    done = pipeline(
        *(world().base, records, out),
        VKDSURGEON=warm,
        RECIPE=str(records / "recipe.yaml"),
        EVAL_GATES="text.text.identical==1",
        PROTOCOLS="people",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert {path.name for path in out.iterdir()} == {"patched", "results", "report.html", "card.md"}
    page = (out / "report.html").read_text()
    assert "The only gate holds." in page
    assert "No gold model was measured" in page
    assert not [name for name in NAMES if re.search(rf"\b{name}\b", page)]
    assert str(tmp_path) not in page


@pytest.mark.slow
def test_a_missed_bound_ends_with_3_and_complete_evidence(records: Path, warm: str, tmp_path: Path):
    out = tmp_path / "out"
    done = pipeline(
        *(world().base, records, out),
        GOLD=str(world().gold),
        VKDSURGEON=warm,
        RECIPE=str(records / "recipe.yaml"),
        EVAL_GATES="forget.vqa.accuracy<0 retain.vqa.accuracy>=0",
        ATTACK_GATES="gap.relearn.ag<=100",
    )
    assert done.returncode == 3, done.stderr
    assert "evaluate: a bound was missed" in done.stderr
    assert "do not release" in done.stderr
    results = {path.name for path in (out / "results").iterdir()}
    assert results == {"unlearn.json", "diff.json", "eval.json", "relearn-people.json", "relearn-pairs.json"}
    card = (out / "card.md").read_text()
    assert "| **failed** | forget.vqa.accuracy\\<0 |" in card
    assert card.count("| holds | gap.relearn.ag\\<=100 |") == 2
    assert json.loads((out / "results" / "diff.json").read_text())["language_identical"] is True


def test_wrong_input_ends_with_2_at_once(tmp_path: Path):
    """By the command as it is installed; the others run the same one without its imports."""
    (tmp_path / "records").mkdir()
    done = pipeline(tmp_path / "no-model", tmp_path / "records", tmp_path / "out")
    assert done.returncode == 2
    assert "unlearn ended with status 2" in done.stderr
    assert not (tmp_path / "out" / "patched").exists()


def test_evidence_of_two_runs_never_mixes(tmp_path: Path):
    (tmp_path / "out").mkdir()
    done = pipeline("model", tmp_path, tmp_path / "out")
    assert (done.returncode, "exists already" in done.stderr) == (2, True)
    assert pipeline("model").returncode == 2
