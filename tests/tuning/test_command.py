"""`vkdsurgeon tune` as a user and a pipeline meet it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from vkdsurgeon_cli.main import run

from tests.tuning.conftest import QUICK
from vkdsurgeon.config.files import dump_recipe, load_recipe
from vkdsurgeon.config.shard import Shard
from vkdsurgeon.errors import UserError
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.training.events import Event
from vkdsurgeon.tuning.pick import RULES, Rule
from vkdsurgeon.tuning.relearning_proxy import Attacker
from vkdsurgeon.tuning.result import Attempt, TuneResult
from vkdsurgeon.tuning.space import load_space
from vkdsurgeon.tuning.tune import TuneRequest, tune

SPACE = """
extends: nothing
search:
  far_share: {low: 0.3, high: 1.0}
  steps: {low: 0.5, high: 2.0, step: 0.5}
  density: {low: 0.1, high: 0.5}
  step_size: [0.5, 1.0, 1.0e+30]
start:
  - {step_size: 1.0e+30}
"""


class Quiet:
    """Hears everything, says nothing; can end the run as Ctrl-C would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.attempts: list[Attempt] = []
        self.left = stop_after

    def __call__(self, event: Event) -> None:
        if event.kind == "trial":
            self.attempts.append(event.subject)
        if event.kind == "step" and self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(QUICK))
    return tmp_path


def words(llava: Path, sets: dict[str, Path], place: Path, *more: object) -> list[str]:
    given = ["--retain", sets["retain"], "--recipe", place / "recipe.yaml", "--space", place / "space.yaml"]
    return [*map(str, ["tune", llava, "--forget", sets["forget"], *given, "-o", place / "out", *more])]


def request(llava: Path, sets: dict[str, Path], place: Path, **changes: Any) -> TuneRequest:
    unlearn = Request(
        model=llava,
        forget=sets["forget"],
        retain=sets["retain"],
        generic=None,
        out=None,
        recipe=QUICK,
        seed=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    asked = TuneRequest(unlearn, place / "out", load_space(place / "space.yaml"), 4, attacker=Attacker(steps=1))
    return replace(asked, **changes)


def points(result: TuneResult) -> list[tuple[object, ...]]:
    return [(each.recipe, each.values, each.reason) for each in result.attempts]


def test_a_search_from_start_to_unlearning(
    llava: Path, sets: dict[str, Path], place: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(words(llava, sets, place, "--trials", 4, "--pick", "forget", "--json", "--progress", "jsonl")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    out = place / "out"
    assert json.loads((out / "tune.json").read_text()) == result
    assert result["schema"] == "vkdsurgeon/tune/1"
    assert [each["name"] for each in result["objectives"]] == ["forget", "retain", "robust"]
    assert {each["measured"] for each in result["objectives"]} == {"label-free"}
    assert "4 held-out forget images" in result["objectives"][0]["what"]
    assert result["versions"]["optuna"]

    default, failed = result["trials"][:2]
    assert default["changes"] == {}
    assert default == result["default"]
    assert failed["state"] == "failed"
    assert "became" in failed["reason"]
    assert len(result["trials"]) == 4
    assert default["forget"] < result["untouched"]["forget"]

    files = sorted(path.name for path in (out / "front").iterdir())
    assert files == [Path(each["file"]).name for each in result["front"]]
    for each in result["front"]:
        text = (out / each["file"]).read_text()
        assert f"# forget {each['forget']:g} (start recipe {default['forget']:g}" in text
        recipe = load_recipe(out / each["file"], {})
        for key, value in each["changes"].items():
            assert getattr(recipe, key) == (round(6 * value) if key == "steps" else value)
    picked = result["pick"]
    assert picked["satisfied"]
    chosen = result["trials"][picked["trial"]]
    assert chosen["retain"] <= default["retain"]
    body = ["unlearn", str(llava), "--forget", str(sets["forget"]), "--retain", str(sets["retain"]), "--dry-run"]
    assert run([*body, "--recipe", str(out / "picked.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == load_recipe(out / "picked.yaml", {}).model_dump()

    told = "".join(path.read_text() for path in out.rglob("*") if path.is_file()) + captured.out + captured.err
    assert "person" not in told.replace("person's", "")
    assert str(sets["forget"].parent) not in told


def test_going_on_and_refusing_to(
    llava: Path,
    sets: dict[str, Path],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    assert run(words(llava, sets, place, "--trials", 1)) == 0
    assert "start recipe" in capsys.readouterr().out
    journal = (place / "out" / "journal.jsonl").read_bytes()

    assert run(words(llava, sets, place, "--trials", 2)) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert run(words(llava, sets, place, "--trials", 2, "--resume", "--seed", 1)) == 2
    assert "another seed" in capsys.readouterr().err
    other = [word if word != str(sets["retain"]) else str(sets["generic"]) for word in words(llava, sets, place)]
    assert run([*other, "--resume"]) == 2
    assert "another retain set" in capsys.readouterr().err
    (place / "space.yaml").write_text(SPACE.replace("low: 0.1", "low: 0.2"))
    assert run(words(llava, sets, place, "--resume")) == 2
    assert "another space" in capsys.readouterr().err
    (place / "space.yaml").write_text(SPACE)
    assert (place / "out" / "journal.jsonl").read_bytes().startswith(journal), "refusals cost no trial"

    # A process that was killed while it wrote leaves half a line.
    with (place / "out" / "journal.jsonl").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    monkeypatch.setitem(RULES, "forget", Rule("forget", "forget", no_worse=("unheard of",)))
    assert run(words(llava, sets, place, "--trials", 2, "--resume", "--pick", "forget", "--json")) == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert len(result["trials"]) == 2
    assert result["pick"] == {"rule": "forget", "satisfied": False, "trial": None, "file": None}
    assert "satisfies it" in captured.err
    assert (place / "out" / "tune.json").is_file()
    assert not (place / "out" / "picked.yaml").exists()

    assert run(words(llava, sets, place, "--trials", 1, "--resume", "--pick", "knee")) == 0
    assert (place / "out" / "picked.yaml").is_file(), "a budget that is spent costs no trial"
    assert len(json.loads((place / "out" / "tune.json").read_text())["trials"]) == 2


def test_an_interrupted_search_ends_where_an_uninterrupted_one_does(
    llava: Path, sets: dict[str, Path], place: Path, tmp_path: Path
):
    straight = tune(request(llava, sets, place, out=tmp_path / "straight"), Quiet())
    # The first trial takes six steps, the second fails in its first ones, so this is within the third.
    broken = Quiet(stop_after=10)
    with pytest.raises(KeyboardInterrupt):
        tune(request(llava, sets, place), broken)
    assert len(broken.attempts) == 2
    heard = Quiet()
    resumed = tune(request(llava, sets, place, resume=True), heard)
    assert len(heard.attempts) == 2
    assert points(resumed) == points(straight)
    assert resumed.front
    assert resumed.untouched == straight.untouched


def test_a_budget_of_time_still_gives_a_result(llava: Path, sets: dict[str, Path], place: Path):
    result = tune(request(llava, sets, place, trials=50, minutes=1e-9), Quiet())
    assert len(result.attempts) == len(result.front) == 1


def test_a_start_that_cannot_run_is_wrong_input(
    llava: Path, sets: dict[str, Path], place: Path, capsys: pytest.CaptureFixture[str]
):
    settings = {**yaml.safe_load(dump_recipe(QUICK)), "stand_ins": 40}
    (place / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert run(words(llava, sets, place)) == 2
    assert "too few retain identities" in capsys.readouterr().err
    assert not (place / "out").exists(), "nothing is in the way of the next try"
    settings = {**settings, "far_share": 0.1}
    (place / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert run(words(llava, sets, place)) == 2
    assert "outside the search space" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--pick", "best"], "unknown rule"),
        (["--minutes", "0"], "not a valid time limit"),
        (["--minutes", "nan"], "not a valid time limit"),
        (["--trials", "0"], "--trials"),
        (["--validation-forget", "x.jsonl"], "--validation-retain"),
        (["--limit", "3"], "no validation questions"),
        (["--space", "missing.yaml"], "cannot read the search space"),
    ],
)
def test_bad_input_is_found_before_any_work(
    llava: Path,
    sets: dict[str, Path],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    told: str,
):
    assert run(words(llava, sets, place, *more)) == 2
    assert told in capsys.readouterr().err
    assert not (place / "out").exists()


def test_a_directory_of_others_is_left_alone(
    llava: Path, sets: dict[str, Path], place: Path, capsys: pytest.CaptureFixture[str]
):
    (place / "out").mkdir()
    (place / "out" / "thesis.txt").write_text("mine")
    assert run(words(llava, sets, place, "--resume")) == 2
    assert "holds no trials" in capsys.readouterr().err
    assert [path.name for path in (place / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_ctrl_c_is_status_130_and_can_be_resumed(llava: Path, sets: dict[str, Path], place: Path):
    command = [sys.executable, "-m", "vkdsurgeon_cli", *words(llava, sets, place, "--trials", 500)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    journal = place / "out" / "journal.jsonl"
    for _ in range(600):
        if journal.is_file() and b'"state":1' in journal.read_bytes().replace(b" ", b""):
            break
        assert process.poll() is None
        time.sleep(0.2)
    else:
        raise AssertionError("no trial was finished")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in told
    assert run(words(llava, sets, place, "--trials", 1, "--resume")) == 0


def test_shards_together_are_the_whole_search(llava: Path, sets: dict[str, Path], place: Path):
    whole = tune(request(llava, sets, place), Quiet())
    heard = [Quiet(), Quiet()]
    for number, listener in enumerate(heard):
        part = request(llava, sets, place, out=place / f"part-{number}", shard=Shard(number, 2))
        own = tune(part, listener)
        assert own.inputs["shard"] == f"{number}/2"
        assert own.default.changes == {}
    assert [len(each.attempts) for each in heard] == [2, 3], "both try the start recipe"
    before = {path: path.read_bytes() for path in place.glob("part-*/journal.jsonl")}
    quiet = Quiet()
    joined = request(llava, sets, place, out=place / "joined", join=[place / "part-1", place / "part-0"])
    together = tune(joined, quiet)
    assert points(together) == points(whole)
    assert [each.number for each in together.front] == [each.number for each in whole.front]
    assert together.untouched == whole.untouched
    assert quiet.attempts == [], "nothing is run again"
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (place / "joined" / "front").iterdir()) == sorted(
        path.name for path in (place / "out" / "front").iterdir()
    )


def test_what_a_shard_lacks_is_run_where_they_are_joined(llava: Path, sets: dict[str, Path], place: Path):
    whole = tune(request(llava, sets, place), Quiet())
    tune(request(llava, sets, place, out=place / "part", shard=Shard(0, 2)), Quiet())
    quiet = Quiet()
    together = tune(request(llava, sets, place, out=place / "joined", join=[place / "part"]), quiet)
    assert len(quiet.attempts) == 2
    assert sorted(map(repr, points(together))) == sorted(map(repr, points(whole)))


def test_only_trials_of_the_same_inputs_are_joined(llava: Path, sets: dict[str, Path], place: Path):
    part = request(llava, sets, place, out=place / "part", shard=Shard(1, 2), trials=2)
    tune(part, Quiet())
    with pytest.raises(UserError, match="another shard"):
        tune(replace(part, shard=Shard(0, 2), resume=True), Quiet())
    other = replace(part.unlearn, seed=1)
    with pytest.raises(UserError, match="another seed"):
        tune(replace(part, unlearn=other, shard=None, join=[place / "part"], out=place / "joined"), Quiet())
    with pytest.raises(UserError, match="no trials to join"):
        tune(replace(part, shard=None, join=[place], out=place / "joined"), Quiet())
    with pytest.raises(UserError, match="joins nothing"):
        tune(replace(part, join=[place / "part"], out=place / "joined"), Quiet())
    with pytest.raises(UserError, match="does not join itself"):
        tune(replace(part, shard=None, join=[place / "joined"], out=place / "joined"), Quiet())
    assert not (place / "joined").exists()
