"""What the base holds may not get in the way of the record at the end of the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoint.conftest import files_of
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import check_output
from vkdsurgeon.checkpoint.provenance import free_record_name
from vkdsurgeon.checkpoint.write_provenance import write_recorded
from vkdsurgeon.errors import UserError


@pytest.fixture
def base(llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "base"))


def _directory(base: Path) -> None:
    (base / "vkdsurgeon.json").mkdir()
    (base / "vkdsurgeon.json" / "notes.txt").write_text("x")


def _capitals(base: Path) -> None:
    (base / "VKDsurgeon.JSON").write_text("{}")


def _records(base: Path) -> None:
    for name in ("vkdsurgeon.json", *(f"vkdsurgeon.{number}.json" for number in range(2, 1003))):
        (base / name).write_text("{}")


@pytest.mark.parametrize(
    ("lay", "name"),
    [(_directory, "vkdsurgeon.2.json"), (_capitals, "vkdsurgeon.2.json"), (_records, "vkdsurgeon.1003.json")],
)
def test_the_record_finds_a_name(base: Path, tmp_path: Path, lay, name: str) -> None:  # type: ignore[no-untyped-def]
    lay(base)
    inventory = take_inventory(base)
    assert free_record_name(inventory) == name
    check_output(inventory, tmp_path / "out", [name])
    write_recorded(inventory, {}, tmp_path / "out", {"method": "none"})
    assert files_of(tmp_path / "out").keys() == {*files_of(base), name}


def test_a_path_that_staging_would_make_too_long_is_refused_before_the_work(base: Path, tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3900:
        deep = deep / ("d" * min(200, 4040 - len(str(deep))))
    deep.mkdir(parents=True)
    with pytest.raises(UserError, match="the path of the output is too long"):
        check_output(take_inventory(base), deep / "out")
