"""UMU-Bench: every question with and without the image, out of cells that are Python literals or JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vkdsurgeon_cli.main import run

from tests.data.suites.layouts import cast, face, write_umu
from tests.tiny_llava import world
from vkdsurgeon.data.protocol import ProtocolRecord, wording
from vkdsurgeon.data.record import to_forget
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites.fewshot import with_shots
from vkdsurgeon.data.suites.read import evaluation_sets, unlearning_sets
from vkdsurgeon.data.suites.split import SuiteSplit
from vkdsurgeon.errors import UserError

SHARD = "train-00000-of-00001.parquet"


def read(root: Path, folder: Path, warned: list[str] | None = None) -> dict[str, NamedSet]:
    folder.mkdir(parents=True, exist_ok=True)
    told = [] if warned is None else warned
    sets, _ = evaluation_sets(SuiteSplit("umu", root, "forget_5"), folder, seed=0, few_shot=False, warn=told.append)
    return {named.name: named for named in sets}


def contents(sets: dict[str, NamedSet]) -> list[dict[str, Any]]:
    return [
        {**record.model_dump(exclude={"source", "image", "subject"}), "file": record.image and record.image.name}
        for named in sets.values()
        for record in named.records
    ]


def change(root: Path, column: str, cell: str | None) -> None:
    path = root / "forget_5" / SHARD
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1][column] = cell
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_every_question_is_asked_with_and_without_the_image(tmp_path: Path) -> None:
    sets = read(write_umu(tmp_path / "umu"), tmp_path / "images")
    assert list(sets) == ["forget", "retain", "real"]
    for name, people in (("forget", 4), ("retain", 3), ("real", 2)):
        records = sets[name].records
        asked = Counter(record.task for record in records)
        assert asked == dict.fromkeys(("vqa", "qa", "vcloze", "cloze", "vgen", "gen"), 2 * people)
        assert all((record.image is not None) == record.task.startswith("v") for record in records)
        assert all(to_forget(record) == record.task.startswith("v") for record in records)
    records = [record for record in sets["forget"].records if isinstance(record, ProtocolRecord)]
    choice = records[0]
    assert choice.subject == "001"
    assert choice.image is not None
    assert choice.image.read_bytes() == face(cast().forget[0])["bytes"]
    assert choice.answer == choice.options[choice.right]
    cloze = next(record for record in records if record.task == "vcloze")
    assert not str(cloze.answer).endswith("."), "the benchmark compares what is before the full stop"
    assert "[Blank]" in wording(cloze)
    shown, shots = with_shots(list(sets.values()), 0)
    assert shots == 2
    assert len(shown) == 3


@pytest.mark.parametrize("others", [{"as_json": True}, {"numbers": True}])
def test_cells_may_be_json_and_ids_numbers(tmp_path: Path, others: dict[str, bool]) -> None:
    plain = read(write_umu(tmp_path / "plain"), tmp_path / "a")
    same = read(write_umu(tmp_path / "same", **others), tmp_path / "b")
    assert contents(plain) == contents(same)


def test_unlearning_takes_the_images_with_their_first_question(tmp_path: Path) -> None:
    root = write_umu(tmp_path / "umu")
    (tmp_path / "images").mkdir()
    forget, retain = unlearning_sets(SuiteSplit("umu", root, "forget_5"), tmp_path / "images")
    assert [record.subject for record in forget] == ["001", "002", "003", "004"]
    assert [record.answer for record in forget] == [person.name for person in cast().forget]
    assert len(retain) == 3


def test_what_cannot_be_asked_is_passed_over(tmp_path: Path) -> None:
    root = write_umu(tmp_path / "umu")
    change(
        root, "Classify", "{'unimodal': {'a': {'question': 'Who ?', 'options': {'A': 'x', 'B': 'y'}, 'answer': 'E'}}}"
    )
    change(root, "Cloze", None)
    warned: list[str] = []
    sets = read(root, tmp_path / "images", warned)
    assert len(sets["forget"].records) == 4 * 12 - 4 - 4
    assert warned[0].startswith("1 question(s) cannot be asked")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{'unimodal': open('x')}", "neither JSON nor a Python literal"),
        ("{'unimodal': ", "neither JSON nor a Python literal"),
        ("[" * 5000, "neither JSON nor a Python literal"),
        ("{'unimodal': {1, 2}}", "neither JSON nor a Python literal"),
        ("'" + "x" * (1 << 20) + "'", "more than 1048576 characters"),
        ("[1, 2]", "the cell"),
        ("{'unimodal': {'a': {'options': ['x']}}}", "unimodal"),
    ],
)
def test_other_cells_are_refused_by_row_and_column(tmp_path: Path, cell: str, message: str) -> None:
    root = write_umu(tmp_path / "umu")
    change(root, "Classify", cell)
    with pytest.raises(UserError, match=message) as caught:
        read(root, tmp_path / "images")
    assert "row 1, column 'Classify'" in str(caught.value)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_umu(tmp_path / "umu")
    words = ["--suite", "umu", "--suite-root", str(root)]
    base = str(world().base)
    assert run(["eval", base, *words, "--split", "forget_5", "--limit", "4", "--device", "cpu"]) == 0
    assert "vcloze" in capsys.readouterr().out
    assert run(["unlearn", base, *words, "--split", "forget_5", "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert run(["eval", base, *words, "--split", "forget05"]) == 2
    assert "forget_5" in capsys.readouterr().err
    assert run(["eval", base, *words]) == 2
    assert "--split forget_5" in capsys.readouterr().err
