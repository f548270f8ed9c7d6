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
DECODER = (
    "{steps: 2, forget_batch: 4, retain_batch: 4, text_batch: 4, answer_tokens: 2, forget_ratio: 9, retain_kl: 9, "
    "text_kl: 9, text_agreement: 0}"
)
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
def test_everything_holds_and_a_second_run_goes_on(records: Path, warm: str, tmp_path: Path):
    out = tmp_path / "out"
    settings = {
        "VKDSURGEON": warm,
        "RECIPE": str(records / "recipe.yaml"),
        "EVAL_GATES": "text.text.identical==1",
        "PROTOCOLS": "people",
    }
    done = pipeline(world().base, records, out, **settings)
    assert done.returncode == 3, "nobody judged the attacks"
    assert "not judged, so do not release" in done.stderr
    assert "a bound was missed" not in done.stderr
    assert done.stdout == ""
    assert {path.name for path in out.iterdir()} == {"patched", "results", "report.html", "card.md", "state"}
    page = (out / "report.html").read_text()
    unjudged = "NOT judged, only measured: Relearning, other subjects; Original visual weights put back."
    assert f"Every bound that was set holds. {unjudged}" in page
    assert unjudged in done.stderr
    assert "every bound holds" not in done.stderr
    assert "No gold model was measured" in page
    assert not [name for name in NAMES if re.search(rf"\b{name}\b", page)]
    assert str(tmp_path) not in page
    # As if it had been killed after the output appeared, and while the attack was going on.
    weights = (out / "patched" / "model.safetensors").stat()
    for name in ("unlearn.json.status", "restore.json.status"):
        (out / "state" / name).unlink()
    (out / "results" / "unlearn.json").unlink()
    again = pipeline(world().base, records, out, **settings, ACCEPT_UNJUDGED="yes")
    assert again.returncode == 0, again.stderr
    assert "measured, not judged" in again.stderr
    assert "language model was edited" not in again.stderr
    assert "there is nothing to do" in again.stderr
    assert again.stderr.count("done before") == 3
    assert (out / "patched" / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns


@pytest.mark.slow
def test_a_missed_bound_ends_with_3_and_complete_evidence(records: Path, warm: str, tmp_path: Path):
    out = tmp_path / "out"
    done = pipeline(
        *(world().base, records, out),
        GOLD=str(world().gold),
        VKDSURGEON=warm,
        RECIPE=str(records / "recipe.yaml"),
        EVAL_GATES="forget.vqa.accuracy<0 retain.vqa.accuracy>=0",
    )
    assert done.returncode == 3, done.stderr
    assert "evaluate: a bound was missed" in done.stderr
    assert "attack: restore: a bound was missed" in done.stderr, "no patch of the visual side alone survives it"
    assert "do not release" in done.stderr
    results = {path.name for path in (out / "results").iterdir()}
    names = {"unlearn.json", "diff.json", "eval.json", "restore.json", "relearn-people.json", "relearn-pairs.json"}
    assert results == names
    card = (out / "card.md").read_text()
    assert "| **failed** | forget.vqa.accuracy\\<0 |" in card
    assert "| **failed** | restore.after.vqa.accuracy\\<=gold+0.05 |" in card
    assert card.count("| relearn.ag\\<=gold+10 | Relearning, other") == 2
    assert json.loads((out / "results" / "diff.json").read_text())["language_identical"] is True


@pytest.mark.slow
def test_a_decoder_pass_is_held_against_its_own_record(records: Path, warm: str, tmp_path: Path):
    """With gold, so that `restore`, which only such a patch can pass, has its bound; here it is one that holds."""
    recipe = records / "decoder.yaml"
    recipe.write_text(RECIPE[:-1] + f", stand_ins: 1, decoder: {DECODER}}}")
    out = tmp_path / "out"
    settings = {
        "GOLD": str(world().gold),
        "RECIPE": str(recipe),
        "EVAL_GATES": "text.text.agreement>=0",
        "RELEARN_GATES": "relearn.ag<=200",
        "RESTORE_GATES": "restore.after.vqa.accuracy<=1",
        "PROTOCOLS": "people",
    }
    done = pipeline(world().base, records, out, VKDSURGEON=warm, **settings)
    assert done.returncode == 0, done.stderr
    assert "every attack had one" in done.stderr
    assert "the language model was edited, as its record declares" in done.stderr
    found = json.loads((out / "results" / "diff.json").read_text())
    assert found["language_identical"] is False
    assert found["undeclared"] == []


STAND_IN = """#!/usr/bin/env bash
# Writes what each command would leave behind, and ends as FAILS ("NAME:STATUS ...") says.
name=$1 words=$*
[[ $1 == attack ]] && name=$2
echo "$words" >>"$LOG"
[[ -n ${REPLACES:-} ]] && echo "# shorter" >"$REPLACES"
status=0
for each in ${FAILS:-}; do [[ ${each%%:*} == "$name" ]] && status=${each#*:}; done
if [[ $status -eq 0 || $status -eq 3 ]]; then
  while [[ $# -gt 0 ]]; do
    if [[ $1 == -o && $name == unlearn ]]; then mkdir -p "$2"; elif [[ $1 == -o ]]; then echo "{}" >"$2"; fi
    shift
  done
  if [[ $words == *--json* ]]; then
    printf '{\n  "verdict": "%s",\n  "headline": "Told.",\n  "language_identical": %s,\n' "${VERDICT:-passed}" \\
      "${LANGUAGE_IDENTICAL:-true}"
    printf '  "unjudged": [%b],\n  "missing": [\n    "Any."\n  ]\n}\n' "${UNJUDGED:-}"
  fi
fi
exit "$status"
"""


class Stage:
    """The pipeline with a command that only writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.out = folder, folder / "log", folder / "out"
        self.command = folder / "stand-in"
        self.command.write_text(STAND_IN)
        self.command.chmod(0o755)
        self.records = folder / "records"
        self.records.mkdir()
        (self.records / "forget.jsonl").write_text("{}\n")

    def play(self, **settings: str) -> tuple[int, str, dict[str, str]]:
        """Status, stderr, and the command lines by name."""
        self.log.write_text("")
        done = pipeline(*("model", self.records, self.out), VKDSURGEON=str(self.command), LOG=str(self.log), **settings)
        lines = {}
        for line in self.log.read_text().splitlines():
            words = line.split()
            lines[words[1] if words[0] == "attack" else words[0]] = line
        return done.returncode, done.stderr, lines


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


RELEARN, RESTORE = "--gate=relearn.ag<=gold+10", "--gate=restore.after.vqa.accuracy<=gold+0.05"


def test_with_gold_both_attacks_have_a_bound_by_default(stage: Stage):
    status, told, lines = stage.play(GOLD="gold")
    assert status == 0
    assert RELEARN in lines["relearn"]
    assert RESTORE in lines["restore"]
    assert "every bound holds, and every attack had one" in told


RESTORED, RELEARNED = r'\n    "Original visual weights put back"', r'\n    "Relearning, other subjects"'
BOTH = rf"{RELEARNED},{RESTORED}\n  "


def test_restore_out_of_scope_is_said_and_then_measured_all_the_same(stage: Stage):
    settings = {"RESTORE_OUT_OF_SCOPE": "yes", "VERDICT": "partial"}
    status, told, lines = stage.play(GOLD="gold", UNJUDGED=rf"{RESTORED}\n  ", **settings)
    assert status == 0
    assert RELEARN in lines["relearn"]
    assert "--gate" not in lines["restore"]
    assert "every bound holds" not in told
    assert "Told.\n== measured, not judged" in told


def test_without_gold_attacks_are_measured_and_what_nobody_judged_is_no_pass(stage: Stage):
    settings = {"VERDICT": "partial", "UNJUDGED": rf"{RELEARNED}\n  "}
    status, told, lines = stage.play(RESTORE_GATES="restore.after.vqa.accuracy<=0.2", **settings)
    assert status == 3
    assert "--gate" not in lines["relearn"]
    assert "--gate=restore.after.vqa.accuracy<=0.2" in lines["restore"]
    assert told.startswith("== without GOLD or bounds of yours"), "before the work and not only after it"
    assert "Told.\n== not judged, so do not release" in told
    assert "a bound was missed" not in told


def test_whoever_accepts_that_is_told_all_the_same(stage: Stage):
    settings = {"VERDICT": "partial", "UNJUDGED": BOTH}
    assert stage.play(**settings)[0] == 3
    status, told, lines = stage.play(ACCEPT_UNJUDGED="yes", **settings)
    assert (status, set(lines)) == (0, {"report"}), "nothing is measured again for that"
    assert "Told.\n== measured, not judged" in told
    assert "ends with status 3" not in told
    assert stage.play(ACCEPT_UNJUDGED="yes", VERDICT="failed")[0] == 3, "it excepts no bound"


@pytest.mark.parametrize("unjudged", [BOTH, rf"{RELEARNED}\n  ", ""])
def test_restore_out_of_scope_excepts_no_other_attack(stage: Stage, unjudged: str):
    assert stage.play(RESTORE_OUT_OF_SCOPE="yes", VERDICT="partial", UNJUDGED=unjudged)[0] == 3


def test_what_a_decoder_pass_declares_may_differ_and_the_bound_on_text_is_its_own(stage: Stage):
    status, told, lines = stage.play(GOLD="gold", LANGUAGE_IDENTICAL="false")
    assert status == 0
    assert "--only-declared" in lines["diff"]
    assert "--gate=text.text.agreement>=0.95" in lines["eval"]
    assert "the language model was edited" in told
    assert stage.play(GOLD="gold", LANGUAGE_IDENTICAL="false")[0] == 0, "and it goes on where it was"


def test_bounds_of_your_own_stay_whatever_was_edited(stage: Stage):
    _, _, lines = stage.play(GOLD="gold", LANGUAGE_IDENTICAL="false", EVAL_GATES="text.text.agreement==1")
    assert "--gate=text.text.agreement==1" in lines["eval"]


def test_text_is_answered_as_before_where_the_language_model_is_untouched(stage: Stage):
    _, told, lines = stage.play(GOLD="gold")
    assert "--gate=text.text.agreement==1" in lines["eval"]
    assert "edited" not in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"RESTORE_OUT_OF_SCOPE": "1"}, "neither yes nor empty"),
        ({"ACCEPT_UNJUDGED": "no"}, "ACCEPT_UNJUDGED: 'no' is neither yes nor empty"),
        ({"RESTORE_OUT_OF_SCOPE": "yes", "RESTORE_GATES": "a<=1"}, "contradict each other"),
        ({"ATTACK_GATES": "gap.relearn.ag<=5"}, "RELEARN_GATES and RESTORE_GATES"),
    ],
)
def test_settings_that_cannot_be_meant_end_with_2(stage: Stage, settings: dict[str, str], message: str):
    status, told, lines = stage.play(**settings)
    assert (status, lines) == (2, {})
    assert message in told


def test_a_failed_verdict_is_never_a_release(stage: Stage):
    assert stage.play(VERDICT="failed")[0] == 3


@pytest.mark.parametrize("status", [1, 130])
def test_after_a_failure_the_same_command_goes_on(stage: Stage, status: int):
    assert stage.play(FAILS=f"eval:3 restore:{status}")[0] == status
    again, told, lines = stage.play()
    assert again == 3, "the bound that was missed before is missed still"
    assert "evaluate: a bound was missed" in told
    assert set(lines) == {"restore", "relearn", "report"}
    assert set(stage.play()[2]) == {"report"}


def test_unlearning_goes_on_from_its_journal_or_its_output(stage: Stage):
    assert stage.play(FAILS="unlearn:130")[0] == 130
    (stage.out / "patched.journal").mkdir()
    assert "--resume" in stage.play(FAILS="diff:1")[2]["unlearn"]
    (stage.out / "state" / "unlearn.json.status").unlink()
    assert "--resume" in stage.play()[2]["unlearn"]


@pytest.mark.parametrize("what", ["records", "settings"])
def test_other_records_or_settings_never_mix_with_what_is_there(stage: Stage, what: str):
    assert stage.play()[0] == 0
    if what == "records":
        (stage.records / "forget.jsonl").write_text("{}\n{}\n")
    status, told, lines = stage.play(**({"GOLD": "gold"} if what == "settings" else {}))
    assert (status, lines) == (2, {})
    assert "evidence of two runs never mixes" in told


def test_a_script_that_is_upgraded_while_it_runs_ends_as_it_began(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """A shell reads a script bit by bit, and at the end of a shorter one it would end with 0."""
    copy = Path(shutil.copy(SCRIPT, stage.folder / "pipeline.sh"))
    monkeypatch.setattr("tests.cli.test_release_pipeline.SCRIPT", copy)
    status, _, lines = stage.play(REPLACES=str(copy), VERDICT="failed")
    assert copy.read_text() == "# shorter\n"
    assert (status, set(lines)) == (3, {"unlearn", "diff", "eval", "restore", "relearn", "report"})


def test_input_that_was_wrong_may_be_put_right(stage: Stage):
    assert stage.play(FAILS="unlearn:2")[0] == 2
    (stage.records / "forget.jsonl").write_text("{}\n{}\n")
    assert stage.play()[0] == 0


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
