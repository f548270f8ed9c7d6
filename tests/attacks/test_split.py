"""What is shown to the attacker and what is measured never overlap."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.attacks.split import split_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError


def ask(subject: str | None, task: str, view: int = 0, visual: bool = True) -> Record:
    image = Path(f"/{subject}-{view}.png") if visual else None
    return Record(image=image, question="q", answer="a", subject=subject, task=task)


SUBJECTS = [f"p{i}" for i in range(5)]
TASKS = ["vqa.name", "vqa.city", "vqa.food", "vqa.work"]
FORGET = [ask(s, t, v) for s in SUBJECTS for t in TASKS for v in range(2)]
OTHER = [ask(s, "general.side") for s in SUBJECTS] + [ask(s, "text.city", visual=False) for s in SUBJECTS]


@given(fraction=st.floats(0.0, 1.0, exclude_max=True), seed=st.integers(0, 50))
def test_people_divide_by_subject(fraction: float, seed: int) -> None:
    split = split_records(FORGET + OTHER, None, protocol="people", fraction=fraction, seed=seed)
    shown, measured = ({r.subject for r in part} for part in (split.shown, split.measured))
    assert shown
    assert measured
    assert not shown & measured
    assert sorted([*split.shown, *split.measured], key=str) == sorted(FORGET, key=str)
    assert len(shown) == min(max(1, round(fraction * 5)), 4)


@given(fraction=st.floats(0.0, 1.0, exclude_max=True), seed=st.integers(0, 50))
def test_pairs_divide_the_tasks_of_every_subject(fraction: float, seed: int) -> None:
    split = split_records(FORGET + OTHER, None, protocol="pairs", fraction=fraction, seed=seed)
    for subject in SUBJECTS:
        shown, measured = ({r.task for r in part if r.subject == subject} for part in (split.shown, split.measured))
        assert len(shown) == min(max(1, round(fraction * 4)), 3)
        assert shown | measured == set(TASKS)
        assert not shown & measured


def test_the_draw_follows_the_seed() -> None:
    splits = [split_records(FORGET, None, protocol="pairs", fraction=0.5, seed=seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("protocol", ["people", "pairs"])
def test_held_out_views_are_measured_under_the_same_division(protocol: str) -> None:
    heldout = [ask(s, t, view=9) for s in [*SUBJECTS, "stranger"] for t in [*TASKS, "vqa.new", "general.side"]]
    split = split_records(FORGET, heldout, protocol=protocol, fraction=0.5, seed=3)  # type: ignore[arg-type]
    plain = split_records(FORGET, None, protocol=protocol, fraction=0.5, seed=3)  # type: ignore[arg-type]
    assert {str(r.image) for r in split.measured} <= {str(r.image) for r in heldout}
    assert {(r.subject, r.task) for r in split.measured} == {(r.subject, r.task) for r in plain.measured}
    assert split.shown == plain.shown


@pytest.mark.parametrize(
    ("forget", "heldout", "protocol", "message"),
    [
        ([ask("p", t) for t in TASKS], None, "people", "use `protocol=pairs`"),
        ([ask(None, t) for t in TASKS], None, "people", "at least two subjects"),
        ([ask(s, "vqa") for s in SUBJECTS], None, "pairs", "at least two tasks"),
        (OTHER, None, "people", "nothing that an attack could bring back"),
        (FORGET, [ask("stranger", "vqa.name")], "people", "held-out set"),
    ],
)
def test_sets_that_cannot_be_divided_are_refused(
    forget: list[Record], heldout: list[Record] | None, protocol: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        split_records(forget, heldout, protocol=protocol, fraction=0.5, seed=0)  # type: ignore[arg-type]
    assert message in str(caught.value)
