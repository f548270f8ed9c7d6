"""`unlearn --method` and output mode as a user meets them: what changes, what does not, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World
from vkdsurgeon.baselines.registry import BASELINES
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.evaluation.evaluate import Evaluation, evaluate
from vkdsurgeon.files.directories import claimed

QUICK = ["--set", "baseline.steps=3", "--set", "baseline.forget_batch=4", "--set", "baseline.retain_batch=4",
         "--set", "baseline.scored=6", "--set", "baseline.manu_fraction=0.05"]  # fmt: skip


def unlearn(facts: World, method: str, *words: object, retain: bool = True) -> int:
    sets = ["--forget", facts.forget, *(["--retain", facts.retain] if retain else [])]
    return run(["unlearn", str(facts.base), "--method", method, *map(str, sets), *map(str, words)])


@dataclass(frozen=True)
class Done:
    """One finished run."""

    out: Path
    result: dict[str, Any]
    record: dict[str, Any]


def done(facts: World, out: Path, capsys: pytest.CaptureFixture[str], method: str, *words: object) -> Done:
    capsys.readouterr()
    assert unlearn(facts, method, "-o", out, "--json", *words) == 0
    return Done(out, json.loads(capsys.readouterr().out), json.loads((out / "vkdsurgeon.json").read_text()))


@pytest.mark.parametrize("method", BASELINES)
def test_every_method_writes_what_its_record_declares_and_nothing_else(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    text = ["--text", facts.text] if BASELINES[method].reads_text else []
    one = done(facts, tmp_path / "o", capsys, method, *QUICK, *text)
    found = diff_checkpoints(facts.base, one.out)
    assert 0 < found.elements_changed <= one.result["selected_elements"] == one.record["selected_elements"]
    assert found.undeclared == ()
    assert run(["diff", str(facts.base), str(one.out), "--only-declared"]) == 0
    # The world's base is patched by nobody, so everything outside tower and projector has to be declared.
    assert set(found.declared) >= {each.name for each in found.tensors if each.part == "language"}
    parts = {each.part for each in found.tensors}
    assert parts <= ({"language"} if one.result["plan"]["scope"] == "llm" else {"language", "tower", "projector"})
    assert not any(word in each.name for each in found.tensors for word in ("embed_tokens", "lm_head"))
    assert one.record["method"].startswith(method)
    assert sum(layer["selected"] for layer in one.record["layers"]) == one.record["selected_elements"]
    told = json.dumps(one.record)
    assert not any(name in told for name in ("Ann", "Bea", str(facts.forget.parent)))
    steps = 0 if method == "manu" else 3
    assert one.result["plan"]["steps"] == steps
    assert (one.result["last_step"] is None) == (steps == 0)


def test_the_scope_is_kept(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = done(facts, tmp_path / "o", capsys, "npo", "--scope", "visual", *QUICK)
    assert run(["diff", str(facts.base), str(one.out), "--only-visual"]) == 0
    assert "language" not in one.record
    assert {each.part for each in diff_checkpoints(facts.base, one.out).tensors} == {"tower", "projector"}


def test_a_mask_of_a_tenth_lets_a_tenth_move_whatever_decay_and_momentum_do(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--set", "baseline.density=0.1", "--set", "baseline.weight_decay=0.5", "--scope", "all")
    one = done(facts, tmp_path / "o", capsys, "graddiff", *QUICK, *words)
    found = diff_checkpoints(facts.base, one.out)
    selected = round(0.1 * one.result["plan"]["elements"])
    assert one.result["selected_elements"] == selected
    assert 0.5 * selected < found.elements_changed <= selected


def test_equal_runs_give_equal_bytes_and_seeds_differ(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [done(facts, tmp_path / str(at), capsys, "idk", *QUICK, "--seed", seed) for at, seed in enumerate((4, 4, 5))]
    digests = [each.result["written"]["weights_digest"] for each in runs]
    assert digests[0] == digests[1] != digests[2]
    assert (runs[0].out / "vkdsurgeon.json").read_bytes() == (runs[1].out / "vkdsurgeon.json").read_bytes()


def test_pruned_neurons_are_silent(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = done(facts, tmp_path / "o", capsys, "manu", *QUICK)
    base, patched = take_inventory(facts.base), take_inventory(one.out)
    for each in diff_checkpoints(facts.base, one.out).tensors:
        assert each.name.endswith(("down_proj.weight", "fc2.weight"))
        old, new = read_tensor(base, each.name), read_tensor(patched, each.name)
        columns = (old != new).any(dim=0)
        assert not new[:, columns].any()
        assert torch.equal(new[:, ~columns], old[:, ~columns])


def accuracy(root: Path, facts: World, name: str) -> float:
    found = evaluate(Evaluation(model=root, sets=[read_set(name, getattr(facts, name))], device="cpu"))
    return next(metric.value or 0.0 for metric in found.metrics if metric.id == f"{name}.vqa.name.accuracy")


def test_graddiff_forgets_and_keeps(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy(facts.base, facts, "forget") > 0.9
    one = done(
        facts, tmp_path / "o", capsys, "graddiff", "--set", "baseline.steps=30", "--set", "baseline.step_size=0.5"
    )
    assert accuracy(one.out, facts, "forget") < 0.3
    assert accuracy(one.out, facts, "retain") > 0.8


@pytest.mark.parametrize("loss", ["npo", "idk", "ga", "uniform"])
def test_output_mode_leaves_the_language_model_alone(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    words = (
        "--set",
        f"output_loss={loss}",
        "--steps",
        12,
        "--set",
        "forget_batch=8",
        "--set",
        "retain_batch=8",
        "--set",
        "density=0.3",
    )
    one = done(facts, tmp_path / "o", capsys, "vkd", *words)
    found = diff_checkpoints(facts.base, one.out)
    assert found.language_identical
    assert 0 < found.elements_changed <= one.result["selected_elements"]
    assert one.result["selected_elements"] == round(0.3 * one.result["plan"]["elements"])
    measured = one.result["measured"]
    assert measured["forget_probability_after"] < 0.8 * measured["forget_probability_before"]
    assert 0 < measured["retain_drift"] < 1
    assert one.record["recipe"]["retain_weight"] == 10
    assert "language" not in one.record


def test_the_record_can_be_reported(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = done(facts, tmp_path / "o", capsys, "npo", *QUICK)
    assert run(["report", str(one.out / "vkdsurgeon.json"), "-o", str(tmp_path / "card.md")]) == 0
    assert "negative preference optimisation" in (tmp_path / "card.md").read_text()


def test_a_dry_run_plans_and_writes_nothing(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--method", "mmunlearner"), ("--set", "output_loss=npo")):
        sets = ["--forget", str(facts.forget), "--retain", str(facts.retain)]
        assert run(["unlearn", str(facts.base), *sets, *words, "--dry-run", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["dry_run"]
        assert result["plan"]["memory_mib"]["total"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "words", "told"),
    [
        ("npo", ["--text", "{text}"], "does not use a text set"),
        ("npo", ["--generic", "{retain}"], "generic images have no answers"),
        ("npo", ["--decoder-pass"], "only VKD in feature mode"),
        ("npo", ["--forget-teacher", "{gold}"], "only VKD in feature mode"),
        ("npo", ["--journal", "{gold}.journal"], "only VKD in feature mode"),
        ("npo", ["--checkpoint-minutes", "5"], "only VKD in feature mode"),
        ("npo", ["--set", "output_loss=ga"], "works only with VKD"),
        ("npo", ["--steps", "3"], "give it as --set baseline.steps=VALUE"),
        ("npo", ["--set", "forget_target=swap"], "does not use VKD's recipe keys"),
        ("npo", ["--dtype", "mixed"], "mixed precision works only with VKD"),
        ("vkd", ["--set", "output_loss=npo", "--dtype", "mixed"], "mixed precision works only with VKD"),
        ("npo", ["--set", "baseline.stpes=3"], "unknown key 'baseline.stpes'"),
        ("npo", ["--set", "baseline.npo_beta=-1"], "baseline.npo_beta"),
        ("npo", ["--set", "baseline.steps"], "not a setting"),
        ("idk", ["--set", "baseline.refusals=[]"], "baseline.refusals"),
        ("rmu", ["--set", "baseline.rmu_layer=99"], "has fewer layers"),
        ("manu", ["--text", "{retain}"], "has an image"),
        ("vkd", ["--scope", "all"], "but no such method"),
        ("vkd", ["--set", "baseline.steps=3"], "but no such method"),
        ("vkd", ["--set", "output_loss=npo", "--scope", "llm"], "--scope"),
    ],
)
def test_wrong_words_are_status_2_and_write_nothing(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, words: list[str], told: str
) -> None:
    words = [word.format(text=facts.text, retain=facts.retain, gold=facts.gold) for word in words]
    assert unlearn(facts, method, "-o", tmp_path / "o", *words) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_images_alone_are_not_enough(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in facts.forget.read_text().splitlines()]
    bare = facts.forget.with_name("bare.jsonl")
    bare.write_text("".join(json.dumps({key: row[key] for key in ("image", "subject")}) + "\n" for row in rows[:4]))
    for words in (["--method", "npo"], ["--set", "output_loss=npo"]):
        sets = ["--forget", str(bare), "--retain", str(facts.retain), "-o", str(tmp_path / "o")]
        assert run(["unlearn", str(facts.base), *sets, *words]) == 2
        told = capsys.readouterr().err
        assert "bare.jsonl:1" in told
        assert "question" in told
    assert unlearn(facts, "npo", "-o", tmp_path / "o", retain=False) == 2
    assert "needs a retain set" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ascent_that_runs_away_writes_nothing(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unlearn(facts, "ga", "-o", tmp_path / "o", *QUICK, "--set", "baseline.step_size=1e30") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [["--method", "npo"], ["--set", "output_loss=npo"]])
def test_a_second_run_to_the_same_output_is_refused_at_its_start(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    out = tmp_path / "o"
    words = ["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain), "-o", str(out)]
    with claimed(out):
        assert run([*words, *how]) == 2
    assert "another run is making this output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
