"""FIUBench: people out of JSON lines, splits by ID, images wherever the archive was unpacked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.data.suites.layouts import cast, face, write_fiubench
from tests.tiny_llava import world
from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites import fiubench
from vkdsurgeon.data.suites.read import evaluation_sets, unlearning_sets
from vkdsurgeon.data.suites.split import SuiteSplit
from vkdsurgeon.errors import UserError


def read(root: Path, split: str = "forget5") -> dict[str, NamedSet]:
    sets, _ = evaluation_sets(
        SuiteSplit("fiubench", root, split), root, seed=0, few_shot=False, warn=lambda text: pytest.fail(text)
    )
    return {named.name: named for named in sets}


def change(root: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    path = root / "full.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    edit(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_people_are_asked_plainly_and_in_other_words(tmp_path: Path) -> None:
    sets = read(write_fiubench(tmp_path / "fiu"))
    assert {name: Counter(record.subject for record in named.records) for name, named in sets.items()} == {
        "forget": {"00000000": 2, "00000001": 2},
        "rephrased": {"00000000": 3, "00000001": 3},
        "retain": {"00000002": 2, "00000003": 2},
    }
    assert [sets[name].forget for name in sets] == [True, True, False]
    first = sets["forget"].records[0]
    assert isinstance(first, ProtocolRecord)
    assert first.image is not None
    assert first.image.read_bytes() == face(cast().forget[0])["bytes"]
    assert (first.task, first.protocol) == ("vgen", "generation")
    assert first.answer == cast().forget[0].name
    assert first.paraphrase == f"it is {first.answer}"
    assert len(first.perturbed) == 3
    assert "truth_ratio" in first.metric_names
    assert first.source.endswith("full.json:1")
    asked = {record.question for record in sets["forget"].records}
    assert {record.question for record in sets["rephrased"].records} - asked


def test_the_newer_upload_has_other_names(tmp_path: Path) -> None:
    old, new = write_fiubench(tmp_path / "old"), write_fiubench(tmp_path / "new", newer=True)

    def contents(root: Path) -> list[dict[str, Any]]:
        records = [record for named in read(root).values() for record in named.records]
        return [record.model_dump(exclude={"source", "image"}) for record in records]

    assert contents(old) == contents(new)


def test_unlearning_retains_only_people_of_no_split_to_forget(tmp_path: Path) -> None:
    root = write_fiubench(tmp_path / "fiu")
    forget, retain = unlearning_sets(SuiteSplit("fiubench", root, "forget5"), root)
    assert [record.subject for record in forget] == ["00000000", "00000001"]
    assert [record.subject for record in retain] == ["00000002", "00000003", "00000005"]
    assert all(record.question and record.answer for record in (*forget, *retain))


def test_people_behind_the_first_four_hundred_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_fiubench(tmp_path / "fiu")
    monkeypatch.setattr(fiubench, "MOST_PEOPLE", 5)
    split = SuiteSplit("fiubench", root, "forget5")
    assert len(unlearning_sets(split, root)[1]) == 2
    monkeypatch.setattr(fiubench, "MOST_PEOPLE", 1)
    with pytest.raises(UserError, match="1 of the people in the split are not among the first 1"):
        unlearning_sets(split, root)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "split.json").unlink(), "the splits cannot be read"),
        (lambda root: (root / "split.json").write_text("[]"), "these are no splits"),
        (lambda root: (root / "split.json").write_text('{"forget10": []}'), "no such split"),
        (lambda root: (root / "full.json").unlink(), "no such file"),
        (lambda root: (root / "SFHQ" / "SFHQ_pt1_00000001.png").unlink(), "the image does not exist"),
        (lambda root: (root / "SFHQ" / "SFHQ_pt1_00000001.png").write_bytes(b"no"), "no image|image"),
        (lambda root: change(root, lambda rows: rows[0].pop("qa_list")), "qa_list"),
        (lambda root: change(root, lambda rows: rows[1].update(unique_id="00000000")), "the same ID"),
        (lambda root: change(root, lambda rows: rows.pop(1)), "are not among the first 400"),
        (lambda root: change(root, lambda rows: rows[0].update(image_path="../../secret.png")), "does not exist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    root = write_fiubench(tmp_path / "fiu")
    spoil(root)
    with pytest.raises(UserError, match=message):
        read(root)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_fiubench(tmp_path / "fiu")
    words = ["--suite", "fiubench", "--suite-root", str(root)]
    base = str(world().base)
    call = [base, *words, "--split", "forget5", "--device", "cpu"]
    assert run(["eval", *call, "--gate", "rephrased.vgen.rouge_l<=1", "--gate", "forget.vgen.truth_ratio>=0"]) == 0
    assert "rephrased" in capsys.readouterr().out
    assert run(["unlearn", *call, "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert run(["eval", base, *words, "--split", "forget_5"]) == 2
