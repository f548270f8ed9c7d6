"""Copies of the weights under any name are told and can be left out; links do not carry strangers' files along."""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.checkpoint.conftest import files_of
from vkdsurgeon.checkpoint.inventory import take_inventory

WEIGHTS = "model.safetensors"


def _copied(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(root / WEIGHTS, root / name)


def _packed(root: Path, name: str) -> None:
    content = (root / WEIGHTS).read_bytes()
    if name.endswith("gz"):
        (root / name).write_bytes(gzip.compress(content, 1))
    elif name.endswith("zip"):
        with zipfile.ZipFile(root / name, "w") as packed:
            packed.writestr("x", content)
    elif name.endswith("state"):
        (root / name).write_bytes(pickle.dumps(content, protocol=4))
    else:
        # Neither name nor beginning tells; length and content do.
        (root / name).write_bytes(content[1000:])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "model.safetensors.bak",
            "model.safetensors~",
            "MODEL-OLD.SAFETENSORS",
            "weights",
            "sub/a.tmp",
            "x.json.orig",
        ),
        *("blob.incomplete", "model.onnx.data", "__0_0.distcp", "W.GGUF"),
        # However small, as a .bin is.
        *("w.tar", "w.tar.gz", "w.zip", "w.tflite", "w.mlmodel", "w.pte", "w.onnx", "w.ort", "w.nemo", "w.engine"),
    ],
)
def test_copies_under_any_name(single: Path, name: str) -> None:
    _copied(single, name)
    if name.startswith("w."):
        (single / name).write_bytes(b"1234")
    found = take_inventory(single)
    assert found.stale == (name,)
    assert any(name in warning and "`drop_stale`" in warning for warning in found.warnings)


@pytest.mark.parametrize("name", ["backup.gz", "backup.zip", "training.state", "dump"])
def test_packed_copies(single: Path, name: str) -> None:
    _packed(single, name)
    assert take_inventory(single).stale == (name,)


@pytest.mark.parametrize("name", ["notes.md", "weights.txt", "model.safetensors.json"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, base64.b64encode, base64.encodebytes])
def test_copies_under_a_name_for_text(single: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (single / name).write_bytes(pack((single / WEIGHTS).read_bytes()))
    assert take_inventory(single).stale == (name,)


def test_what_belongs_to_a_checkpoint_is_not_told(single: Path) -> None:
    (single / "README.md").write_text("words " * 40_000)
    (single / "tokenizer.json").write_text(json.dumps({"vocab": {f"w{n}": n for n in range(40_000)}}))
    (single / "tokenizer.model").write_bytes(b"\n\x0b" + bytes(range(256)) * 800)
    (single / "vocab.txt").write_text("".join(f"word{n}\n" for n in range(60_000)))
    (single / "one_line.json").write_text(json.dumps([0] * 90_000))
    (single / "merges.txt").write_text("é a\n" * 60_000)
    (single / "image.png").write_bytes(b"\x89PNG\r\n" + bytes(200_000))
    (single / "film.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200_000))
    (single / "model.safetensors.index.json.bak.md").write_text("x")
    assert take_inventory(single).stale == ()


QUICK = (
    "--steps",
    "2",
    "--set",
    "extensions=0",
    "--set",
    "forget_reading=1",
    "--set",
    "retain_reading=1",
    "--set",
    "retain_drift=99",
)


def _unlearn(model: Path, sets: dict[str, Path], out: Path, *more: str, quick: tuple[str, ...] = QUICK) -> int:
    words = ["unlearn", str(model), "--forget", str(sets["forget"]), "--retain", str(sets["retain"]), "-o", str(out)]
    return run([*words, *quick, *more])


def test_they_are_left_out_when_asked(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(llava, tmp_path / "model"))
    shutil.copyfile(model / sorted(model.glob("*.safetensors"))[0].name, model / "old.bak")
    before = files_of(model)
    assert _unlearn(model, sets, tmp_path / "kept") == 0
    assert "old.bak may hold the same weights" in capsys.readouterr().err
    assert (tmp_path / "kept" / "old.bak").exists()
    assert _unlearn(model, sets, tmp_path / "out", "--drop-stale") == 0
    assert files_of(tmp_path / "out").keys() == {*before, "vkdsurgeon.json"} - {"old.bak"}
    assert json.loads((tmp_path / "out" / "vkdsurgeon.json").read_text())["left_out"] == ["old.bak"]
    assert files_of(model) == before
    # Asked again, it is done.
    assert _unlearn(model, sets, tmp_path / "out", "--drop-stale", "--resume") == 0
    assert _unlearn(model, sets, tmp_path / "out", "--resume") == 2


@pytest.mark.parametrize("method", [(), ("--method", "manu")])
def test_links_that_leave_are_refused_unless_allowed(
    llava: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], method: tuple[str, ...]
) -> None:
    model = Path(shutil.copytree(llava, tmp_path / "model"))
    (tmp_path / "secret.txt").write_text("the key of my house")
    (model / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (model / "again.json").symlink_to("config.json")
    assert take_inventory(model).links == ("notes.txt",)
    assert _unlearn(model, sets, tmp_path / "out", *method, quick=() if method else QUICK) == 2
    told = capsys.readouterr().err
    assert "notes.txt" in told
    assert "secret.txt" in told
    assert "--follow-links" in told
    assert not (tmp_path / "out").exists()
    assert _unlearn(model, sets, tmp_path / "out", "--dry-run", *method, quick=() if method else QUICK) == 2
    assert "secret.txt" in capsys.readouterr().err
    if not method:
        assert _unlearn(model, sets, tmp_path / "out", "--follow-links") == 0
        assert (tmp_path / "out" / "notes.txt").read_text() == "the key of my house"


def test_a_download_cache_consists_of_such_links(llava: Path, tmp_path: Path) -> None:
    store = tmp_path / "models--org--name"
    (store / "blobs").mkdir(parents=True)
    snapshot = store / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(llava.iterdir())):
        shutil.copyfile(path, store / "blobs" / str(number))
        (snapshot / path.name).symlink_to(os.path.relpath(store / "blobs" / str(number), snapshot))
    assert take_inventory(snapshot).links == ()
