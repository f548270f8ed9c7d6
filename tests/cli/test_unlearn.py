"""`vkdsurgeon unlearn` as a user and a pipeline meet it."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.config.preset import preset_settings
from vkdsurgeon.model.load_vision import load_visual_stack

QUICK = [
    "--steps",
    "8",
    "--set",
    "copies=1",
    "--set",
    "tamper_weight=0",
    "--set",
    "forget_batch=8",
    "--set",
    "retain_batch=8",
    "--set",
    "forget_reading=1",
    "--set",
    "retain_reading=1",
    "--set",
    "retain_drift=5",
]


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def unlearn(llava: Path, sets: dict[str, Path], *words: object) -> int:
    return run(["unlearn", str(llava), "--forget", str(sets["forget"]), *QUICK, *map(str, words)])


def test_a_gpu_that_is_too_small_is_told_with_what_to_do(
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def full(*arguments: object, **settings: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    # Imported before it is replaced, or whoever imports it later keeps the replacement.
    importlib.import_module("vkdsurgeon.vision_pass.run")
    monkeypatch.setattr("vkdsurgeon.vision_pass.trainer.pass_over", full)
    out = tmp_path / "patched"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out) == 1
    told = capsys.readouterr().err
    assert "the GPU has too little memory; nothing was written. Use a smaller micro_batch" in told
    assert "Traceback" not in told
    assert not out.exists()


def test_the_main_job(llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = files(llava)
    out = tmp_path / "patched"
    words = ["--set", "tamper_weight=0.5", "--set", "copies=4", "-o", out, "--json", "--progress", "jsonl"]
    assert unlearn(llava, sets, "--retain", sets["retain"], *words) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    events = [json.loads(line) for line in captured.err.splitlines() if line.startswith("{")]
    assert sum(event["event"] == "step" for event in events) == 8
    assert {"loss", "similarity", "retain_drift", "images_per_second", "seconds_left"} <= set(
        next(event for event in events if event["event"] == "step")
    )
    assert files(llava) == before, "the input is never touched"
    assert set(files(out)) == {*before, "vkdsurgeon.json"}
    difference = diff_checkpoints(llava, out)
    assert difference.language_identical
    assert result["written"]["elements_changed"] == sum(result["written"]["by_tensor"].values())
    assert result["written"]["elements_changed"] <= result["selected_elements"]
    assert sum(layer["selected"] for layer in result["layers"]) == result["selected_elements"]
    weights = result["plan"]["tower_parameters"] + result["plan"]["projector_parameters"]
    assert sum(layer["elements"] for layer in result["layers"]) == weights
    assert {"layer.0", "model.multi_modal_projector"} <= {layer["layer"] for layer in result["layers"]}
    load_visual_stack(out, device="cpu")


def test_documents_about_the_same_weights_know_each_other(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "patched"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out, "--json") == 0
    written = json.loads(capsys.readouterr().out)["written"]["weights_digest"]
    assert run(["diff", str(llava), str(out), "--json"]) == 0
    difference = json.loads(capsys.readouterr().out)
    record = json.loads((out / "vkdsurgeon.json").read_text())
    inventory = take_inventory(out)
    assert written == weights_digest(out, inventory.shards)
    assert written == record["weights_digest"] == difference["patched_weights_digest"]
    assert difference["base_weights_digest"] == weights_digest(llava, inventory.shards) != written


def test_provenance_never_tells_who(llava: Path, sets: dict[str, Path], tmp_path: Path):
    out = tmp_path / "patched"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out) == 0
    text = (out / "vkdsurgeon.json").read_text()
    record = json.loads(text)
    assert record["sets"]["forget"]["pictures"] == 16
    assert record["recipe"]["steps"] == 8
    assert "person" not in text
    assert str(sets["forget"].parent) not in text


def test_a_patched_checkpoint_can_be_operated_on_again_and_is_told(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", first) == 0
    assert unlearn(first, sets, "--retain", sets["retain"], "-o", second) == 0
    assert "was unlearned before (vkdsurgeon.json)" in capsys.readouterr().err
    assert (second / "vkdsurgeon.2.json").exists()
    assert (second / "vkdsurgeon.json").read_bytes() == (first / "vkdsurgeon.json").read_bytes()


def test_equal_runs_give_equal_bytes(llava: Path, sets: dict[str, Path], tmp_path: Path):
    for name in ("one", "two"):
        assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / name, "--seed", 5) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_other_teachers_are_flags_and_leave_no_path(llava: Path, sets: dict[str, Path], tmp_path: Path):
    other = build_checkpoint("llava", tmp_path / "ignorant", dtype=torch.bfloat16, seed=7)
    out = tmp_path / "patched"
    words = ("--retain", sets["retain"], "--forget-teacher", other, "--retain-teacher", llava, "-o", out)
    assert unlearn(llava, sets, *words) == 0
    text = (out / "vkdsurgeon.json").read_text()
    record = json.loads(text)
    assert record["recipe"]["forget_target"] == "reference"
    assert set(record["other_teachers"]) == {"forget", "retain"}
    assert record["teacher"]["separation"] > 1
    assert "ignorant" not in text
    assert unlearn(llava, sets, *words[:-1], tmp_path / "no", "--set", "forget_target=swap") == 2


def test_strategies_are_flags(llava: Path, sets: dict[str, Path], tmp_path: Path):
    out = tmp_path / "patched"
    words = (
        "--set",
        "forget_target=swap",
        "--set",
        "saliency=random",
        "--set",
        "depth=1",
        "--set",
        "retain_layers=layer.1,projector=0.5",
    )
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out, *words) == 0
    recipe = json.loads((out / "vkdsurgeon.json").read_text())["recipe"]
    assert (recipe["forget_target"], recipe["saliency"], recipe["depth"]) == ("swap", "random", 1)
    assert recipe["retain_layers"] == {"layer.1": 1.0, "projector": 0.5}


def test_a_dry_run_plans_and_writes_nothing(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "patched"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out, "--dry-run", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dry_run"]
    assert result["plan"]["memory_mib"]["total"] > 0
    assert result["plan"]["forget_pictures"] == 16
    assert list(tmp_path.iterdir()) == []


def test_without_a_retain_set_it_works_and_says_what_that_costs(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert unlearn(llava, sets, "-o", tmp_path / "patched") == 0
    assert "no --retain set" in capsys.readouterr().err
    assert unlearn(llava, sets, "--generic", sets["generic"], "-o", tmp_path / "other") == 0


def test_a_missed_stop_rule_is_status_3_and_the_result_is_written(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "patched"
    words = (
        "--retain",
        sets["retain"],
        "-o",
        out,
        "--set",
        "forget_reading=0",
        "--set",
        "step_drift=1e-6",
        "--set",
        "extensions=0",
        "--json",
    )
    assert unlearn(llava, sets, *words) == 3
    captured = capsys.readouterr()
    assert not json.loads(captured.out)["stop_rule"][-1]["met"]
    assert "stop rule: not met" in captured.err
    assert out.is_dir()


def test_a_failure_in_training_leaves_nothing(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / "patched", "--set", "step_size=1e30") == 1
    assert "lower step_size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_is_status_130_and_one_document(
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    import vkdsurgeon.vision_pass.course

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vkdsurgeon.vision_pass.course, "train", interrupted)
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / "patched", "--json") == 130
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["status"] == 130
    assert "Interrupted. No output was written." in captured.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_beside_the_output_is_ever_removed(llava: Path, sets: dict[str, Path], tmp_path: Path):
    mine, linked, named = (tmp_path / f".o.staging-{end}" for end in ("backup", "00000000", "deadbeef"))
    mine.mkdir()
    (mine / "precious").write_text("x")
    linked.symlink_to(mine)
    named.mkdir()
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / "o") == 0
    assert (mine / "precious").exists()
    assert linked.is_symlink()
    assert named.is_dir(), "a name alone makes nothing ours (tests/faults/test_folders.py)"


def test_odd_names_are_printed_as_they_are(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "a[bold]é"
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", out) == 0
    assert "a[bold]é" in capsys.readouterr().out.replace("\n", "")


def test_an_unlabelled_forget_set_is_told(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = str(sets["forget"].with_suffix(""))
    words = ["unlearn", str(llava), "--forget", folder, "--retain", str(sets["retain"]), "--dry-run"]
    assert run(words) == 0
    assert "counts as one" in capsys.readouterr().err


def test_a_person_in_both_sets_is_told(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in sets["retain"].read_text().splitlines()]
    rows = [{**row, "subject": "person 0"} if number < 2 else row for number, row in enumerate(rows)]
    shared = sets["retain"].with_name("shared.jsonl")
    shared.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert unlearn(llava, sets, "--retain", shared, "--dry-run") == 0
    assert "works against forgetting" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_device_that_is_not_there(llava: Path, sets: dict[str, Path], tmp_path: Path):
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / "patched", "--device", "cuda") == 2


def test_a_preset_is_laid_under_recipe_and_flags(llava: Path, sets: dict[str, Path], tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text("tamper_steps: 1\n")
    out = tmp_path / "patched"
    words = (
        "--retain",
        sets["retain"],
        "-o",
        out,
        "--preset",
        "robust",
        "--recipe",
        file,
        "--set",
        "identity_margin=1.5",
    )
    assert unlearn(llava, sets, *words, "--set", "extensions=0", "--steps", 3) == 0
    recipe = json.loads((out / "vkdsurgeon.json").read_text())["recipe"]
    preset = preset_settings("robust")
    assert (recipe["steps"], recipe["tamper_steps"], recipe["identity_margin"]) == (3, 1, 1.5)
    assert recipe["identity_weight"] == preset["identity_weight"] > 0
    assert diff_checkpoints(llava, out).language_identical


def test_an_unknown_preset_is_told_with_the_known_ones(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert unlearn(llava, sets, "--retain", sets["retain"], "-o", tmp_path / "no", "--preset", "sturdy") == 2
    told = capsys.readouterr().err
    assert "sturdy" in told
    assert "decoder, default, robust" in told
    assert not (tmp_path / "no").exists()
