"""Nothing that is measured is shown, and attackers of other data see no image and no subject of the forget set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import draw_subject
from vkdsurgeon.attacks.relearn_data import Material, gather_material
from vkdsurgeon.config.relearn import RelearnPlan
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import UserError

TASKS = ("vqa.name", "vqa.city", "vqa.food", "general.side")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for subject in range(8):
        for view in range(4):
            draw_subject(subject, view).save(folder / f"{subject}-{view}.png")
    return folder


def named(name: str, folder: Path, subjects: range, views: range, tasks: tuple[str, ...] = TASKS) -> NamedSet:
    return NamedSet(
        name,
        tuple(
            Record(image=folder / f"{s}-{v}.png", question="q", answer="a", subject=f"p{s}", task=task)
            for s in subjects
            for v in views
            for task in tasks
        ),
    )


def gather(folder: Path, **settings: object) -> Material:
    sets = {
        "forget": named("forget", folder, range(3), range(3)),
        "heldout": named("heldout", folder, range(3), range(3, 4)),
        "retain": named("retain", folder, range(3, 6), range(4)),
        "benign": None,
        "unrelated": None,
    }
    given = {name: settings.pop(name, value) for name, value in sets.items()}
    return gather_material(**given, plan=RelearnPlan(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("protocol", ["people", "pairs", "views", "benign", "unrelated"])
def test_what_is_measured_is_not_shown(folder: Path, protocol: str, fraction: float) -> None:
    other = named("unrelated", folder, range(6, 8), range(4))
    material = gather(
        folder, protocol=protocol, fraction=fraction, seeds=(0, 1), unrelated=other if protocol == "unrelated" else None
    )
    for split in material.splits[f"{protocol}.{100 * fraction:g}"]:
        assert split.shown
        assert split.measured
        assert not {record.image for record in split.shown} & {record.image for record in split.measured}
        assert {record.task for record in split.measured} <= {"vqa.name", "vqa.city", "vqa.food"}
        used = {record.image for record in split.shown} | {record.image for record in split.measured}
        assert not used & {record.image for record in material.utility.records}
        subjects, asked = ({record.subject for record in part} for part in (split.shown, split.measured))
        keys, others = ({(r.subject, r.task) for r in part} for part in (split.shown, split.measured))
        if protocol in ("benign", "unrelated"):
            assert not subjects & asked
            assert len(asked) == 3
        elif fraction == 1.0 or protocol == "views":
            assert keys == others
        elif protocol == "people":
            assert not subjects & asked
        else:
            assert not keys & others


def test_views_without_held_out_ones_divide_the_images(folder: Path) -> None:
    split = gather(folder, heldout=None, protocol="views", fraction=0.34).splits["views.34"][0]
    shown, measured = ({record.image for record in part} for part in (split.shown, split.measured))
    assert not shown & measured
    assert len(shown) == 3
    assert len(measured) == 6


def test_a_tenth_of_the_views_is_one_of_each_subject_and_fractions_grow(folder: Path) -> None:
    material = gather(folder, protocol="views", fraction=(0.1, 0.5, 1.0))
    counts = [len({r.image for r in splits[0].shown}) for splits in material.splits.values()]
    assert counts == [3, 6, 9]


@pytest.mark.parametrize("protocol", ["people", "pairs", "views"])
def test_everything_cannot_be_shown_without_other_views(folder: Path, protocol: str) -> None:
    with pytest.raises(UserError, match="nothing of it is left to measure"):
        gather(folder, heldout=None, protocol=protocol, fraction=1.0)


@pytest.mark.parametrize("protocol", ["people", "views"])
def test_held_out_views_that_were_shown_are_refused(folder: Path, protocol: str, tmp_path: Path) -> None:
    copy = tmp_path / "0-3.png"
    copy.write_bytes((folder / "0-0.png").read_bytes())
    record = Record(image=copy, question="q", answer="a", subject="p0", task="vqa.name")
    with pytest.raises(UserError, match="shown to the attacker would be measured"):
        gather(folder, heldout=NamedSet("heldout", (record,)), protocol=protocol, fraction=1.0)


@pytest.mark.parametrize("kind", ["subject", "image"])
@pytest.mark.parametrize("protocol", ["benign", "unrelated"])
def test_other_data_with_somebody_forgotten_is_refused(folder: Path, protocol: str, kind: str, tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes((folder / ("7-0.png" if kind == "subject" else "1-3.png")).read_bytes())
    subject = "p1" if kind == "subject" else "somebody"
    record = Record(image=image, question="q", answer="a", subject=subject, task="vqa.name")
    with pytest.raises(UserError, match="shows a forget subject"):
        gather(folder, protocol=protocol, **{protocol: NamedSet(protocol, (record,))})


def test_text_teaches_a_vision_tower_nothing(folder: Path) -> None:
    text = NamedSet("unrelated", (Record(question="q", answer="a", task="text"),))
    with pytest.raises(UserError, match="has no image"):
        gather(folder, protocol="unrelated", unrelated=text)
    assert gather(folder, protocol="unrelated", scope="llm", unrelated=text).splits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "benign", "retain": None}, "or `benign`"),
        ({"protocol": "unrelated"}, "expected: `unrelated`"),
        ({"protocol": "pairs", "unrelated": True}, "no chosen protocol uses this set"),
        ({"protocol": "people", "benign": True}, "no chosen protocol uses this set"),
    ],
)
def test_sets_and_protocols_belong_together(folder: Path, settings: dict[str, object], message: str) -> None:
    other = named("unrelated", folder, range(6, 8), range(4))
    with pytest.raises(UserError) as caught:
        gather(folder, **{key: other if value is True else value for key, value in settings.items()})
    assert message in str(caught.value)


def test_other_questions_stand_in_for_a_retain_set(folder: Path) -> None:
    utility = gather(folder, retain=None).utility
    assert utility.part == "utility"
    assert {(r.image.name[-5], r.task) for r in utility.records if r.image} == {("3", "general.side")}
    plain = named("forget", folder, range(3), range(3), TASKS[:3])
    assert gather(folder, retain=None, heldout=None, forget=plain).utility.part is None


def test_only_what_was_used_is_told(folder: Path) -> None:
    told = {chosen.name: (len(chosen.records), len(whole.records)) for chosen, whole in gather(folder).used()}
    assert told["forget"] == (2 * 9, 36)
    assert told["heldout"] == (1 * 3, 12)
    assert told["retain"] == (48, 48)
