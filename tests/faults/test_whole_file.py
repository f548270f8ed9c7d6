"""A result gets its name when it is whole, whatever that name is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder, write_whole


@pytest.mark.parametrize("name", ["r" * 250 + ".json", "ü" * 125 + ".json"], ids=["ascii", "two bytes each"])
def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    check_folder(tmp_path / name)
    write_whole(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot have this name.*File name too long"):
        check_folder(tmp_path / ("r" * 300))


def test_a_private_result_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_fills_up_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vkdsurgeon.files.atomic.os.fsync", full)
    with pytest.raises(OSError, match=r"kept\.safetensors"):
        write_whole(tmp_path / "kept.safetensors", b"activations", private=True)
    assert os.listdir(tmp_path) == []
