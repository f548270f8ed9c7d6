"""A dry run finds what the run would stumble over."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.header import LENGTH_BYTES
from vkdsurgeon.checkpoint.output import SLACK_BYTES


@pytest.fixture
def own(sets: dict[str, Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(sets["retain"].parent, tmp_path / "sets"))
    return folder / sets["retain"].name


def _dry(llava: Path, sets: dict[str, Path], own: Path) -> int:
    return run(["unlearn", str(llava), "--forget", str(sets["forget"]), "--retain", str(own), "--dry-run"])


def test_a_whole_set_is_no_obstacle(llava: Path, sets: dict[str, Path], own: Path) -> None:
    assert _dry(llava, sets, own) == 0


def test_it_says_what_the_run_takes(
    llava: Path, sets: dict[str, Path], own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", str(llava), "--forget", str(sets["forget"]), "--retain", str(own), "--steps", "30", "--json"]
    words += ["--dtype", "mixed"]
    assert run([*words, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["plan"]["dtype"] == "mixed"
    found = planned["forecast"]
    assert found["teacher_seconds"] > 0
    assert found["seconds"] > 30 * found["step_seconds"] > 0
    assert found["most_seconds"] > found["seconds"]
    run([*words, "-o", str(tmp_path / "out")])
    assert json.loads(capsys.readouterr().out)["forecast"] is None
    written = [path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()]
    record = tmp_path / "out" / "vkdsurgeon.json"
    assert json.loads(record.read_text())["dtype"] == "mixed"
    assert found["output_bytes"] == sum(written) - record.stat().st_size


def test_links_and_a_replay_file_are_counted(
    sets: dict[str, Path], own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_checkpoint("llava", tmp_path / "model", shards=5)
    words = ["unlearn", str(model), "--forget", str(sets["forget"]), "--retain", str(own), "--steps", "2"]
    words += ["--set", "depth=1", "--set", "extensions=0", "--link-untouched", "--save-replay", str(tmp_path / "kept")]
    assert run([*words, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["forecast"]
    run([*words, "-o", str(tmp_path / "out")])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    mine = [path.stat().st_size for path in files if path.stat().st_nlink == 1 and path.name != "vkdsurgeon.json"]
    assert len(mine) < len(files) - 1, "nothing was linked"
    assert found["output_bytes"] == sum(mine)
    # 16 images, one copy each of the 14 that are trained on, four of the two that are held out; 5 tokens, 32 values of
    # 2 bytes each; names and facts in the header are not counted.
    assert found["replay_bytes"] == (16 + 14 + 8) * 5 * 32 * 2
    kept = (tmp_path / "kept").read_bytes()
    assert len(kept) == found["replay_bytes"] + LENGTH_BYTES + int.from_bytes(kept[:LENGTH_BYTES], "little")
    capsys.readouterr()
    assert run([*words[:-1], str(tmp_path / "other"), "--dry-run"]) == 0
    assert "for the replay file" in capsys.readouterr().out


def test_files_that_will_be_linked_need_no_room(
    llava: Path, sets: dict[str, Path], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["unlearn", str(llava), "--forget", str(sets["forget"]), "--retain", str(own), "--dry-run"]
    room = SLACK_BYTES + sum(path.stat().st_size for path in llava.iterdir() if path.suffix != ".safetensors")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=room, used=0, free=room))
    assert run([*words, "-o", str(tmp_path / "out")]) == 2
    assert run([*words, "-o", str(tmp_path / "out"), "--link-untouched"]) == 0


@pytest.mark.parametrize("how", ["no image", "too narrow", "unreadable"])
def test_one_bad_image_among_many(
    llava: Path, sets: dict[str, Path], own: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(own.read_text().splitlines()[-1])
    path = own.parent / row["image"]
    if how == "no image":
        path.write_bytes(b"no image at all")
    elif how == "too narrow":
        Image.new("RGB", (2, 1000)).save(path)
    elif os.geteuid() == 0:
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0)
    assert _dry(llava, sets, own) == 2
    told = capsys.readouterr().err
    assert path.name in told
    assert f"{own.name}:{len(own.read_text().splitlines())}" in told


@pytest.mark.parametrize("method", [[], ["--method", "ga"]])
def test_an_output_in_the_way(
    llava: Path, sets: dict[str, Path], tmp_path: Path, method: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", str(llava), "--forget", str(sets["forget"]), "--dry-run", *method, "-o"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert run([*words, str(tmp_path / "full")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "full" / "mine" / "out")]) == 2
    assert "parent directory" in capsys.readouterr().err
    if not method:
        assert run([*words, str(tmp_path / "new" / "out")]) == 0
    assert not (tmp_path / "new").exists()


def test_a_long_and_narrow_image_takes_no_memory(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    """Scaled until its shorter side fits the tower it would be 336 x 168,000,000."""
    (tmp_path / "p").mkdir()
    Image.new("L", (1_000_000, 2)).save(tmp_path / "p" / "line.png")
    words = ["unlearn", str(llava), "--forget", str(tmp_path / "p"), "--retain", str(sets["retain"])]
    assert run([*words, "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
