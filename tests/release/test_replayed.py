"""A second request by the command line: the record tells of the first, and who may have the file is asked for."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.conftest import write_set
from vkdsurgeon.errors import SurgeryError


@pytest.fixture(scope="module")
def own_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("requests")
    return {
        "first": write_set(folder, "first", range(1), views=4),
        "second": write_set(folder, "second", range(1, 2), views=4),
        "retain": write_set(folder, "retain", range(10, 14), views=3),
    }


def test_a_second_request_keeps_the_first(
    llava: Path, own_sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    quick = ["--steps", "4", "--set", "extensions=0", "--set", "depth=1", "--set", "tamper_weight=0"]
    retain = ["--retain", str(own_sets["retain"]), *quick]
    key, file = tmp_path / "key", tmp_path / "first.replay"
    key.write_bytes(os.urandom(32))
    sealed = ["--replay-key", str(key)]
    words = ["unlearn", str(llava), "--forget", str(own_sets["first"]), *retain, "-o", str(tmp_path / "one")]
    assert run([*words, "--save-replay", str(file), *sealed]) in (0, 3)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"activation" not in file.read_bytes()
    words = ["unlearn", str(llava), "--forget", str(own_sets["second"]), *retain, "--replay", str(file)]
    assert run([*words, "-o", str(tmp_path / "two")]) == 2
    assert "encrypted" in capsys.readouterr().err
    assert run([*words, *sealed, "-o", str(tmp_path / "two"), "--json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["plan"]["replayed_subjects"] == 1
    told = json.loads((tmp_path / "two" / "vkdsurgeon.json").read_text())["replay"]
    assert told["pictures"] == 4
    verify = ["verify", str(tmp_path / "two")]
    for given, status, words_told in (
        ([], 0, "skipped: no --replay given; the files of the run stand for 4 image(s) of 1 subject(s)"),
        (["--replay", str(file)], 0, "passed: these are the replay files of the run"),
        (["--replay", str(key)], 3, "failed: not the replay files of the run"),
    ):
        assert run([*verify, *given]) == status
        assert words_told in " ".join(capsys.readouterr().out.split())
    assert run(["verify", str(tmp_path / "one"), "--replay", str(file)]) == 3
    assert "names no replay file" in capsys.readouterr().out
    again = ["reproduce", str(tmp_path / "two"), "--base", str(llava), "--forget", str(own_sets["second"])]
    again += ["--retain", str(own_sets["retain"])]
    assert run(again) == 2
    assert "--replay" in capsys.readouterr().err
    assert run([*again, "--replay", str(key), *sealed]) == 2
    assert "not the replay files of this run" in capsys.readouterr().err
    assert run([*again, "--replay", str(file), *sealed, "--json"]) == 0
    assert '"grade": "bytes"' in capsys.readouterr().out
    missing = tmp_path / "gone.replay"
    assert run([*words[:-2], "--replay", str(missing), "--dry-run", *sealed]) == 2
    assert "gone.replay" in capsys.readouterr().err


def test_nothing_is_kept_where_no_layer_is_frozen(
    llava: Path, own_sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", str(llava), "--forget", str(own_sets["first"]), "--retain", str(own_sets["retain"])]
    words += ["--steps", "4", "--set", "depth=all", "-o", str(tmp_path / "out")]
    assert run([*words, "--save-replay", str(tmp_path / "file")]) == 2
    assert "no activations to keep" in capsys.readouterr().err
    assert not (tmp_path / "file").exists()


def test_the_file_takes_the_place_of_nothing(
    llava: Path, own_sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(llava, tmp_path / "model"))
    words = ["unlearn", str(model), "--forget", str(own_sets["first"]), "--retain", str(own_sets["retain"])]
    words += ["--steps", "2", "--set", "extensions=0", "--set", "depth=1", "-o", str(tmp_path / "out")]
    mine = tmp_path / "mine"
    mine.write_text("precious")
    before = {path: path.read_bytes() for path in (mine, model / "config.json", own_sets["first"])}
    for target in (*before, model / "new", tmp_path / "out", tmp_path / "out" / "new", tmp_path / "out.journal"):
        assert run([*words, "--save-replay", str(target)]) == 2, target
        assert "save-replay" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "out").exists()
    assert run([*words, "--save-replay", str(tmp_path / "new"), "--replay", str(tmp_path / "new")]) == 2
    assert run([*words, "--replay", "/dev/zero"]) == 2
    assert "no regular file" in capsys.readouterr().err
    assert run([*words, "--save-replay", str(tmp_path / "new"), "--replay-key", "/dev/zero"]) == 2
    assert "not a key" in capsys.readouterr().err
    assert run([*words, "--replay-key", str(mine)]) == 2
    told = capsys.readouterr().err
    assert "--replay-key" in told
    assert "--save-replay" in told
    assert run([*words, "--method", "ga", "--save-replay", str(tmp_path / "new")]) == 2
    assert "--save-replay" in capsys.readouterr().err


def test_a_failed_write_leaves_no_replay_file(
    llava: Path, own_sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        assert (tmp_path / "file").is_file()
        raise SurgeryError("the disk is full")

    monkeypatch.setattr("vkdsurgeon.pipeline.run.write_recorded", full)
    words = ["unlearn", str(llava), "--forget", str(own_sets["first"]), "--retain", str(own_sets["retain"])]
    words += ["--steps", "2", "--set", "extensions=0", "--set", "depth=1", "-o", str(tmp_path / "out")]
    assert run([*words, "--save-replay", str(tmp_path / "file")]) == 1
    assert not (tmp_path / "file").exists()
