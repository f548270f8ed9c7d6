"""Images are told apart by content, never by path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import check_disjoint, records_digest, samples_of
from vkdsurgeon.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for shade, name in enumerate("ab"):
        made[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (2, 2), (shade, 0, 0)).save(made[name])
    made["copy of a"] = Path(shutil.copy(made["a"], tmp_path / "c.png"))
    return made


def test_copies_and_repeats_count_once_and_order_is_kept(paths: dict[str, Path]) -> None:
    records = [
        Record(image=paths["b"], subject="bea", source="f:1"),
        Record(image=paths["a"], source="f:2"),
        Record(question="text"),
        Record(image=paths["copy of a"], subject="ann", source="f:4"),
        Record(image=paths["b"], source="f:5"),
    ]
    samples = samples_of(records, role="forget")
    assert [(p.path, p.subject, p.source) for p in samples] == [
        (paths["b"], "bea", "f:1"),
        (paths["a"], "ann", "f:2"),
    ]
    assert len({p.digest for p in samples}) == 2
    assert samples_of(records[1:2], role="forget")[0].subject == "subject"


def test_one_image_with_two_subjects_is_refused(paths: dict[str, Path]) -> None:
    records = [
        Record(image=paths["a"], subject="ann", source="f:1"),
        Record(image=paths["copy of a"], subject="bea", source="f:2"),
    ]
    with pytest.raises(UserError, match=r"f:2: one image has two subjects"):
        samples_of(records, role="forget")


def test_a_set_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="the retain set has no images"):
        samples_of([Record(question="q")], role="retain")


def test_overlap_is_found_by_content(paths: dict[str, Path]) -> None:
    forget = samples_of([Record(image=paths["a"], source="f:1")], role="forget")
    check_disjoint(forget, samples_of([Record(image=paths["b"])], role="retain"))
    with pytest.raises(UserError, match=r"f:1: the forget and the retain set share 1 image"):
        check_disjoint(forget, samples_of([Record(image=paths["copy of a"])], role="retain"))


def test_the_digest_follows_content_order_and_salt_but_not_paths(paths: dict[str, Path]) -> None:
    first, second = Record(image=paths["a"], question="q", answer="x"), Record(question="r")
    digest = records_digest([first, second])
    assert digest == records_digest([first.model_copy(update={"image": paths["copy of a"]}), second])
    others = [
        records_digest([second, first]),
        records_digest([first]),
        records_digest([first.model_copy(update={"answer": "y"}), second]),
        records_digest([first.model_copy(update={"image": paths["b"]}), second]),
        records_digest([first, second], b"salt"),
        records_digest([first, second], b"other"),
    ]
    assert len({digest, *others}) == len(others) + 1


def test_a_group_image_may_be_kept_but_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "group.png"
    Image.new("RGB", (4, 4)).save(path)
    records = [Record(image=path, subject=name, source=f"x:{number}") for number, name in enumerate(("Ann", "Bob"))]
    assert [sample.subject for sample in samples_of(records, role="retain")] == ["Ann"]
    with pytest.raises(UserError, match="two subjects"):
        samples_of(records, role="forget")
