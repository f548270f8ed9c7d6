"""`release`: interrupted at every stage it goes on, keeps what is done, and never passes beside what nobody judged."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from vkdsurgeon_cli.commands.release import _rows
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.release.test_attest import validate
from tests.tiny_llava import NAMES, world
from vkdsurgeon.config.release import load_release
from vkdsurgeon.errors import UserError
from vkdsurgeon.release.card import CARD
from vkdsurgeon.release.run import Tools, _eval_gates, run_release
from vkdsurgeon.release.stages import Stage, Stages
from vkdsurgeon.release.summary import attack_facts, in_words
from vkdsurgeon.training.events import Event

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "release_pipeline.sh"
RECIPE = {
    "steps": 4, "depth": "all", "forget_batch": 8, "retain_batch": 8, "extensions": 0,
    "forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 100, "copies": 0, "tamper_weight": 0.0,
}  # fmt: skip
LOOSE = {
    "eval": ["text.text.identical==1"],
    "relearn": ["relearn.ag<=200"],
    "restore": ["restore.after.vqa.accuracy<=1"],
}
STAGES = ["unlearn", "diff", "verify", "eval", "restore", "relearn-people", "card", "attest", "patch", "sign"]


def write_plan(folder: Path, **keys: Any) -> Path:
    facts = world()
    plan = {
        "model": str(facts.base),
        "out": "out",
        "forget": str(facts.forget),
        "retain": str(facts.retain),
        "forget_heldout": str(facts.heldout),
        "retain_heldout": str(facts.retain),
        "text": str(facts.text),
        "recipe": RECIPE,
        "protocols": ["people"],
        "relearn": {"steps": 2},
        "request": {"id": "R-17", "date": "2026-03-01"},
        "base_model": "org/model",
        **keys,
    }
    path = folder / "release.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in plan.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> tuple[Path, list[list[str]]]:
    """A release that was stopped at the start of every stage, and in each once more when its output was there but not
    yet written down; with what each call did anew. Read-only for tests."""
    folder = tmp_path_factory.mktemp("release")
    plan = write_plan(folder, gates=LOOSE, sign={"private_key": str(keys[0])})
    calls: list[list[str]] = []
    stopped: set[str] = set()
    honest = Stages._write

    def write(self: Stages, path: Path, stage: Stage, asked: str, outputs: Any, *rest: Any) -> None:
        if outputs and stage.name not in stopped:
            stopped.add(stage.name)
            raise KeyboardInterrupt
        honest(self, path, stage, asked, outputs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "_write", write)
        for _ in range(3 * len(STAGES)):
            begun: list[str] = []

            def listen(event: Event, begun: list[str] = begun) -> None:
                if event.kind == "stage" and event.text in STAGES:
                    begun.append(event.text)
                    # The second of them: the first is done and written down.
                    if len(begun) == 2:
                        raise KeyboardInterrupt

            calls.append(begun)
            try:
                vkdsurgeon.make_release(plan, on_event=listen)
            except KeyboardInterrupt as stop:
                assert "the same command goes on" in str(stop)  # noqa: PT017
                continue
            break
    assert stopped == set(STAGES)
    return folder, calls


@pytest.mark.slow
def test_interrupted_at_every_stage_it_goes_on(interrupted: tuple[Path, list[list[str]]]) -> None:
    folder, calls = interrupted
    # Each stage was begun, stopped with its output there, begun again and done; then the next one was begun.
    assert [begun[0] for begun in calls[::2]] == STAGES
    pairs = [list(pair) for pair in itertools.pairwise(STAGES)]
    assert [begun[:2] for begun in calls[1::2]] == [*pairs, STAGES[-1:]]
    result = vkdsurgeon.make_release(folder / "release.yaml")
    assert [(stage.name, stage.state) for stage in result.stages] == [(name, "kept") for name in STAGES]
    assert result.passed
    assert result.verdict == "release"
    # A pass is never told without what attacks brought back.
    assert re.search(r"relearn people [+-]\d[\d.]* points .*\[relearn\.ag<=200\]", result.headline)
    assert re.search(r"restore \d[\d.]* %.* \[restore\.after\.", result.headline)
    assert ("then upload", f"hf upload ORG/NAME {result.patched} .") in _rows(result)


def test_a_figure_and_the_bound_beside_it_are_of_one_metric(interrupted: tuple[Path, list[list[str]]]) -> None:
    plan = load_release(interrupted[0] / "release.yaml")
    results = plan.out / "results"
    bound = ["relearn.after.vqa.accuracy<=gold+0.10"]
    gates = plan.gates.model_copy(update={"relearn": bound, "restore": []})
    relearned, restored = attack_facts(results, plan.model_copy(update={"gates": gates}))
    metrics = {
        each["id"]: each["value"] for each in json.loads((results / "relearn-people.json").read_text())["metrics"]
    }
    assert (relearned.metric, relearned.bounds) == ("relearn.after.vqa.accuracy", bound)
    assert relearned.value == metrics["relearn.after.vqa.accuracy"]
    assert in_words(relearned).startswith(f"relearn people {100 * metrics['relearn.after.vqa.accuracy']:.1f} %")
    # Without a bound it is the widest group of questions about the subject.
    assert restored.metric == "restore.after.vqa.accuracy"


@pytest.mark.campaign
def test_killed_inside_every_stage_it_goes_on(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """A real process, killed in each stage at a random moment; then the same command ends as if nothing had been."""
    plans = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        plans.append(write_plan(tmp_path / name, gates=LOOSE, sign={"private_key": str(keys[0])}))
    whole = vkdsurgeon.make_release(plans[0])
    seconds = {stage.name: stage.seconds for stage in whole.stages}
    command = [sys.executable, "-m", "vkdsurgeon_cli", "release", str(plans[1]), "--progress", "jsonl", "--json"]
    chance, killed = random.Random(0), []
    for stage in STAGES:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                told = json.loads(line)
                if (told["event"], told.get("stage")) == ("stage", stage):
                    time.sleep(chance.uniform(0, seconds[stage]))
                    process.kill()
                    break
        if process.returncode == -signal.SIGKILL:
            killed.append(stage)
    print(f"\nkilled in {', '.join(killed)}")
    # A stage may be over before the signal comes, but hardly in more than two of them.
    assert len(killed) >= len(STAGES) - 2
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == whole.verdict == "release"
    ours, theirs = (tmp_path / name / "out" / "patched" for name in ("killed", "whole"))
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    # The card tells seconds; everything else is the same to the byte.
    assert all(path.read_bytes() == (theirs / path.name).read_bytes() for path in ours.iterdir() if path.name != CARD)
    left = [path.name for path in (tmp_path / "killed" / "out").iterdir() if path.name.startswith(".")]
    assert not [name for name in left if "staging" in name or "running" in name], left
    asked = {"base": world().base, "signature": tmp_path / "killed" / "out" / "model.sig", "public_key": keys[1]}
    assert vkdsurgeon.verify(ours, **asked).passed


@pytest.mark.slow
def test_what_a_release_holds(interrupted: tuple[Path, list[list[str]]], keys: tuple[Path, Path]) -> None:
    folder, _ = interrupted
    out = folder / "out"
    assert {path.name for path in out.iterdir()} >= {
        "patched", "results", "attestations", "report.html", "card.md", "summary.md", "release.json", "fix.safetensors",
        "model.sig", "state",
    }  # fmt: skip
    vkdsurgeon.patch_checkpoint(world().base, out / "fix.safetensors", folder / "again")
    asked = {"base": world().base, "forget": world().forget, "signature": out / "model.sig", "public_key": keys[1]}
    assert vkdsurgeon.verify(folder / "again", **asked).passed, "the card and the signature travel with the patch"
    results, _, bom = validate(out / "attestations")
    assert results["predicate"]["result"] == "PASSED"
    assert any("relearn.ag<=200" in each for each in results["predicate"]["passedTests"])
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert any("eval: forget.vqa" in each["slice"] and "confidenceInterval" in each for each in metrics)
    card = (out / "patched" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "org/model"
    told = (out / "summary.md").read_text() + card + (out / "attestations" / "ml-bom.cdx.json").read_text()
    assert not [name for name in NAMES if re.search(rf"\b{name}\b", told)]
    assert str(folder) not in told
    assert "elative to base and gold, under these attacks" in told


@pytest.mark.slow
def test_other_bounds_judge_anew_and_another_set_never_mixes(
    interrupted: tuple[Path, list[list[str]]], tmp_path: Path
) -> None:
    # A copy: processes that share the tests run them in any order, and the others read the verdict of the first plan.
    folder = shutil.copytree(interrupted[0], tmp_path / "copy")
    text = (folder / "release.yaml").read_text()
    plan = folder / "stricter.yaml"
    plan.write_text(text.replace("relearn.ag<=200", "relearn.ag<=-200"))
    assert run(["release", str(plan)]) == 3
    result = json.loads((folder / "out" / "release.json").read_text())
    done = [stage["name"] for stage in result["stages"] if stage["state"] == "done"]
    assert done == ["relearn-people", "card", "attest", "patch", "sign"]
    assert result["verdict"] == "failed"
    assert any("relearn.ag<=-200" in each for each in result["missed"])
    statement = json.loads((folder / "out" / "attestations" / "test-result.intoto.json").read_text())
    assert statement["predicate"]["result"] == "FAILED"
    plan.write_text(text.replace("seed: 0", "").replace("request:", "seed: 5\nrequest:"))
    with pytest.raises(UserError, match="done with other inputs"):
        vkdsurgeon.make_release(plan)
    plan.write_text(text.replace("gates:\n", "gates_gone:\n").replace("gates_gone:", "gates:"))
    # Without bounds nothing is a pass, whatever was measured.
    loose = yaml.safe_load(text)
    loose["gates"] = {"eval": ["text.text.identical==1"]}
    plan.write_text(yaml.safe_dump(loose))
    unjudged = vkdsurgeon.make_release(plan)
    assert (unjudged.verdict, unjudged.passed) == ("unjudged", False)
    assert "then upload" not in dict(_rows(unjudged))
    assert len(unjudged.unjudged) == 2
    plan.write_text(yaml.safe_dump({**loose, "accept_unjudged": True}))
    accepted = vkdsurgeon.make_release(plan)
    assert (accepted.verdict, accepted.passed) == ("accepted", True)
    assert "NOT judged" in accepted.headline


def test_input_that_was_wrong_may_be_put_right(tmp_path: Path) -> None:
    """A stage that failed before it made anything stands in nobody's way."""
    (tmp_path / "state").mkdir()
    out = tmp_path / "patched"

    def fail() -> list[str]:
        raise UserError("the recipe is wrong")

    def make() -> list[str]:
        out.write_text("weights")
        return []

    def stage(seed: int, run: Any) -> Stage:
        return Stage("unlearn", {"seed": seed}, [out], run, replaces=False)

    stages = Stages(tmp_path, lambda event: None)
    # Begun and not done: the same stage is tried again, and never kept.
    for _ in range(2):
        with pytest.raises(UserError, match="recipe is wrong"):
            stages.do(stage(1, fail))
    assert stages.do(stage(2, make)).state == "done"
    assert stages.do(stage(2, fail)).state == "kept"
    with pytest.raises(UserError, match="done with other inputs"):
        stages.do(stage(1, make))


def test_bounds_by_default(tmp_path: Path) -> None:
    keys = ("model", "forget", "retain", "forget_heldout", "retain_heldout", "text", "out")
    path = tmp_path / "release.yaml"

    def plan(**more: Any) -> Any:
        path.write_text(yaml.safe_dump({**dict.fromkeys(keys, "x"), **more}))
        return load_release(path)

    assert plan().model == tmp_path / "x"
    assert (plan().relearn_gates, plan().restore_gates) == ([], [])
    gold = plan(gold="gold")
    assert gold.relearn_gates == ["relearn.after.vqa.accuracy<=gold+0.10"]
    assert gold.restore_gates == ["restore.after.vqa.accuracy<=gold+0.05"]
    assert plan(gold="gold", restore_out_of_scope=True).restore_gates == []
    # A decoder pass may change answers to text as far as it allows itself, unless you set bounds.
    assert _eval_gates(plan(), True)[-1] == "text.text.agreement>=0.95"
    assert _eval_gates(plan(), False)[-1] == "text.text.agreement==1"
    assert _eval_gates(plan(gates={"eval": ["text.text.agreement==1"]}), True) == ["text.text.agreement==1"]
    assert plan(gates={"relearn": ["relearn.ag<=20"]}).relearn_gates == ["relearn.ag<=20"]
    for wrong, message in (
        ({"gates": {"atack": []}}, "unknown key 'gates.atack'"),
        ({"modle": "x"}, "unknown key 'modle'"),
        ({"compression": "rar"}, "release key 'compression'"),
        ({"restore_out_of_scope": True, "gates": {"restore": ["a<=1"]}}, "contradict each other"),
    ):
        with pytest.raises(UserError, match=message):
            plan(**wrong)
    path.write_text("model: x\n")
    with pytest.raises(UserError, match="release has no 'out'"):
        load_release(path)


def test_a_decoder_pass_is_not_trained_with_what_is_measured(tmp_path: Path) -> None:
    mine, given = tmp_path / "mine.jsonl", []
    mine.write_text("What is the capital of Peru ?\nWho wrote Faust ?\n")

    class Enough(Exception):
        pass

    def unlearn(*_: Any, text: Any, **__: Any) -> None:
        given.append(text)
        raise Enough

    tools = Tools(unlearn, *(lambda *_, **__: pytest.fail("it ended before"),) * 4)

    def release(number: int, **keys: Any) -> None:
        plan = write_plan(tmp_path, recipe={**RECIPE, "decoder": {}}, out=f"out{number}", accept_unjudged=True, **keys)
        run_release(load_release(plan), tools, lambda event: None)

    for number, text in enumerate((None, mine)):
        with pytest.raises(Enough):
            release(number, text_retain=None if text is None else str(text))
    assert given == [None, mine]
    with pytest.raises(UserError, match=r"must not be trained with.*questions in both"):
        release(2, text_retain=str(world().text))
    plan = write_plan(tmp_path, text_retain=str(mine), out="out3")
    with pytest.raises(UserError, match="only a decoder pass"):
        run_release(load_release(plan), tools, lambda event: None)


def test_a_directory_of_somebody_else_is_left_alone(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = ("forget", "retain", "forget_heldout", "retain_heldout", "text")
    path = tmp_path / "release.yaml"
    plan = {"model": str(llava), "out": "out", **{role: str(sets["forget"]) for role in roles}}
    path.write_text(yaml.safe_dump(plan))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert run(["release", str(path)]) == 2
    assert "is not from a release" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_the_script_is_the_command(tmp_path: Path) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "VKDSURGEON": str(stand_in)}
    done = subprocess.run(
        ["bash", str(SCRIPT), "plan.yaml", "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "release plan.yaml --json\n")
