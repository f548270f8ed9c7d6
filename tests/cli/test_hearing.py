"""`--modality audio` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.voices import build_checkpoint, write_voices
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor

KEYS = (
    "steps=2", "extensions=0", "forget_batch=4", "retain_batch=4", "copies=0", "step_size=0.3", "forget_target=swap",
    "forget_reading=1.0", "retain_reading=1.0", "retain_drift=1e6", "depth=all", "density=0.5",
)  # fmt: skip


def test_a_voice_is_forgotten_and_the_record_makes_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_checkpoint("qwen2_audio", tmp_path / "model")
    forget, retain = (
        write_voices(tmp_path, name, speakers, takes=3) for name, speakers in (("f", range(2)), ("r", range(9, 12)))
    )
    sets, out = ["--forget", str(forget), "--retain", str(retain)], tmp_path / "out"
    settings = [word for key in KEYS for word in ("--set", key)]
    assert run(["inspect", str(model), "--modality", "audio", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modality"] == "audio"
    command = ["unlearn", str(model), *sets, "--modality", "audio", *settings, "--device", "cpu"]
    assert run([*command, "--dry-run"]) == 0
    assert run([*command, "-o", str(out)]) == 0
    assert run(["diff", str(model), str(out), "--modality", "audio", "--only-visual"]) == 0
    before, after = take_inventory(model), take_inventory(out)
    name = next(name for name in before.tensors if name.endswith("conv1.weight"))
    assert not read_tensor(before, name).equal(read_tensor(after, name))
    capsys.readouterr()
    assert run(["verify", str(out), "--base", str(model), "--forget", str(forget)]) == 0
    assert "the set that was forgotten: 6 clip(s)" in " ".join(capsys.readouterr().out.split())
    assert run(["reproduce", str(out), "--base", str(model), *sets, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grade"] == "bytes"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modality", "video"], "video"),
        (["--modality", "audio", "--decoder-pass"], "cannot swap what it hears"),
        (["--modality", "audio", "--method", "npo"], "only VKD in feature mode takes clips"),
    ],
)
def test_what_is_for_images_is_refused(
    words: list[str],
    message: str,
    llava: Path,
    sets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["unlearn", str(llava), "--forget", str(sets["forget"]), "--retain", str(sets["retain"])]
    assert run([*given, "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
