"""The benchmarks' parquet layouts become the right questions about the right images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from tests.data.suites.layouts import IMAGE, cast, face, write_config, write_mllmu
from vkdsurgeon.data.protocol import ProtocolRecord, expected, wording
from vkdsurgeon.data.record import to_forget
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites.read import evaluation_sets, unlearning_sets
from vkdsurgeon.data.suites.split import SuiteSplit


def read(
    suite: str, root: Path, folder: Path, *, seed: int = 0, few_shot: bool = False, warned: list[str] | None = None
) -> dict[str, NamedSet]:
    folder.mkdir(exist_ok=True)
    split = SuiteSplit(suite, root, "forget_5" if suite == "mllmu" else "forget05")  # type: ignore[arg-type]
    told = [] if warned is None else warned
    sets, _ = evaluation_sets(split, folder, seed=seed, few_shot=few_shot, warn=told.append)
    return {named.name: named for named in sets}


def contents(records: tuple[ProtocolRecord, ...], folder: Path) -> list[dict[str, object]]:
    found = []
    for record in records:
        values = record.model_dump(exclude={"source"})
        values["image"] = None if record.image is None else record.image.relative_to(folder)
        found.append(values)
    return found


def test_mllmu_has_four_sets_each_asked_with_and_without_the_image(mllmu: Path, tmp_path: Path) -> None:
    sets = read("mllmu", mllmu, tmp_path)
    assert list(sets) == ["forget", "test", "retain", "real"]
    assert [sets[name].forget for name in sets] == [True, True, False, False]
    per_person = {"vqa": 3, "qa": 2, "vcloze": 1, "cloze": 1, "vgen": 1, "gen": 1}
    for name, people in (("forget", 4), ("test", 4), ("retain", 3), ("real", 3)):
        records = sets[name].records
        assert Counter(record.task for record in records) == {task: n * people for task, n in per_person.items()}
        assert all((record.image is not None) == record.task.startswith("v") for record in records)
        assert all(to_forget(record) == record.task.startswith("v") for record in records)
    assert {record.subject for record in sets["test"].records} == {"001", "002", "003", "004"}
    first = sets["forget"].records[0]
    assert isinstance(first, ProtocolRecord)
    assert first.answer == first.options[first.right] == cast().forget[0].name
    assert first.source == f"{mllmu / 'forget_5' / 'train-00000-of-00001.parquet'}, row 0"
    assert first.image is not None
    assert first.image.read_bytes() == face(cast().forget[0])["bytes"]


def test_the_test_set_shows_one_of_its_images_drawn_by_the_seed(mllmu: Path, tmp_path: Path) -> None:
    def shown(seed: int) -> list[bytes]:
        sets = read("mllmu", mllmu, tmp_path / str(seed), seed=seed)
        return [record.image.read_bytes() for record in sets["test"].records if record.image is not None]

    views = [face(person, view, heldout=True)["bytes"] for person in cast().forget for view in range(2)]
    drawn = shown(0)
    assert set(drawn) <= set(views)
    assert len(set(drawn)) == 4
    assert drawn == shown(0)
    assert any(drawn != shown(seed) for seed in range(1, 5))


def test_nested_columns_may_be_json_strings(mllmu: Path, tmp_path: Path) -> None:
    strings = write_mllmu(tmp_path / "strings", retained=3, as_json=True)
    plain, parsed = read("mllmu", mllmu, tmp_path / "a"), read("mllmu", strings, tmp_path / "b")
    for name in plain:
        assert contents(plain[name].records, tmp_path / "a") == contents(parsed[name].records, tmp_path / "b")


def test_clear_asks_for_names_captions_and_text(clear: Path, tmp_path: Path) -> None:
    warned: list[str] = []
    sets = read("clear", clear, tmp_path, warned=warned)
    assert {name: Counter(record.task for record in named.records) for name, named in sets.items()} == {
        "forget": {"vqa": 8, "vgen": 8, "gen": 8},
        "retain": {"vqa": 6, "vgen": 6, "gen": 6},
        "real_faces": {"vqa": 4},
        "real_world": {"vqa": 4},
    }
    assert warned == ["4 question(s) of retain_perturbed are about people of forget05; left out"]
    for named in sets.values():
        for record in named.records:
            assert isinstance(record, ProtocolRecord)
            if record.protocol == "choice":
                assert record.options.count(record.answer or "") == 1
                assert record.options[record.right] == record.answer
    caption = next(record for record in sets["forget"].records if record.task == "vgen")
    assert len(caption.perturbed) == 4
    assert caption.paraphrase == f"this person is {cast().forget[0].name}"
    assert {record.image for record in sets["forget"].records if record.task == "gen"} == {None}


def test_options_of_clear_stand_in_an_order_that_the_seed_decides(clear: Path, tmp_path: Path) -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        return [record.options for record in read("clear", clear, tmp_path / str(seed), seed=seed)["forget"].records]

    assert orders(0) == orders(0) != orders(1)
    rights = {record.right for record in read("clear", clear, tmp_path / "r")["forget"].records if record.options}
    assert len(rights) > 1


def test_what_cannot_be_asked_is_passed_over_and_told(mllmu: Path, tmp_path: Path) -> None:
    import shutil

    import pyarrow.parquet as pq

    root = tmp_path / "copy"
    shutil.copytree(mllmu, root)
    path = root / "forget_5" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["Classification_Task"]["Image_Textual_Questions"][0]["Correct_Answer"] = "E"
    rows[1]["Mask_Task"][0]["Ground_Truth"] = " "
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    warned: list[str] = []
    sets = read("mllmu", root, tmp_path / "images", warned=warned)
    assert len(sets["forget"].records) == 4 * 9 - 2
    assert len(warned) == 1
    assert warned[0].startswith("2 question(s) cannot be asked")
    assert warned[0].endswith("row 0: no option carries the letter of the right answer")


def test_demonstrations_are_about_one_kept_person_who_is_then_not_asked_about(mllmu: Path, tmp_path: Path) -> None:
    plain, shown = read("mllmu", mllmu, tmp_path / "a"), read("mllmu", mllmu, tmp_path / "b", few_shot=True)
    people = {record.subject for record in plain["retain"].records}
    (person,) = people - {record.subject for record in shown["retain"].records}
    asked = {
        task: [record for record in plain["retain"].records if record.subject == person and record.task == task]
        for task in ("vqa", "qa", "vcloze", "cloze")
    }
    for name in ("forget", "test", "retain"):
        for record in shown[name].records:
            given = [(shot.question, shot.answer) for shot in record.shots]
            assert given == [(wording(each), expected(each)) for each in asked.get(record.task, ())]
            assert all((shot.image is None) == (record.image is None) for shot in record.shots)
    assert all(record.shots == () for record in shown["real"].records)
    assert len(shown["forget"].records) == len(plain["forget"].records)


def test_wording() -> None:
    choice = ProtocolRecord(
        protocol="choice", question="Who ?", answer="b", options=("a", "b"), letters=("A", "B"), right=1
    )
    assert wording(choice).split("\n")[:3] == ["Who ?", "A: a", "B: b"]
    assert expected(choice) == "B"
    cloze = ProtocolRecord(protocol="cloze", question="She is __ .", answer="Ann")
    assert wording(cloze).startswith("She is [Blank] .\n")
    assert expected(cloze) == "Ann"


@pytest.mark.parametrize(("suite", "split"), [("mllmu", "forget_5"), ("clear", "forget05")])
def test_unlearning_takes_images_with_their_subjects(
    suite: str, split: str, mllmu: Path, clear: Path, tmp_path: Path
) -> None:
    root = mllmu if suite == "mllmu" else clear
    forget, retain = unlearning_sets(SuiteSplit(suite, root, split), tmp_path)  # type: ignore[arg-type]
    views = 1 if suite == "mllmu" else 2
    assert (len(forget), len(retain)) == (4 * views, 3 * views)
    assert len({record.subject for record in forget}) == 4
    assert not {record.subject for record in forget} & {record.subject for record in retain}
    assert all(record.question and record.answer and record.image for record in (*forget, *retain))


def test_the_split_repository_has_metadata_instead_of_questions(tmp_path: Path) -> None:
    columns = {"image": IMAGE, "metadata": pa.string()}
    people = cast()
    for config, group in (("forget_5", people.forget), ("retain_95", people.retain[:2])):
        rows = [
            {"image": face(each), "metadata": f'[{{"Question": "Who ?", "Answer": "{each.name}"}}]'} for each in group
        ]
        write_config(tmp_path, config, columns, rows)
    (tmp_path / "images").mkdir()
    forget, retain = unlearning_sets(SuiteSplit("mllmu", tmp_path, "forget_5"), tmp_path / "images")
    assert [record.answer for record in forget] == [person.name for person in people.forget]
    assert len({record.subject for record in (*forget, *retain)}) == 6
