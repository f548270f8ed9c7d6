"""Faces and the cast are functions of the seed alone, and facts cannot be told from looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.miniature_model.look import LOOK_CHOICES, Look, draw_look, draw_view, look_distance
from benchmarks.miniature_model.pen import SIDE
from benchmarks.miniature_model.people import FACTS, NAMES, Size, draw_cast
from benchmarks.miniature_model.styles import STYLES


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(STYLES)), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_same_look_and_view_give_the_same_image(style: str, look_seed: int, view_seed: int) -> None:
    draw = STYLES[style]
    look, view = draw_look(np.random.default_rng(look_seed)), draw_view(np.random.default_rng(view_seed))
    image = draw(look, view)
    assert image.size == (SIDE, SIDE)
    assert image.mode == "RGB"
    assert image.tobytes() == draw(look, view).tobytes()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("factor", LOOK_CHOICES)
def test_every_value_of_every_factor_of_a_look_is_visible(factor: str, style: str) -> None:
    view = replace(draw_view(np.random.default_rng(3)), glasses=False, mouth_open=False, light=1.0)
    plain = Look(**dict.fromkeys(LOOK_CHOICES, 1))
    values = range(LOOK_CHOICES[factor])
    shown = {STYLES[style](replace(plain, **{factor: value}), view).tobytes() for value in values}
    assert len(shown) == LOOK_CHOICES[factor]


def test_the_styles_draw_the_same_person_differently() -> None:
    look, view = draw_look(np.random.default_rng(1)), draw_view(np.random.default_rng(2))
    assert len({draw(look, view).tobytes() for draw in STYLES.values()}) == len(STYLES)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_asked_about_a_view_is_visible(style: str) -> None:
    look, view = draw_look(np.random.default_rng(1)), draw_view(np.random.default_rng(2))
    for change in ({"glasses": not view.glasses}, {"mouth_open": not view.mouth_open}):
        one, other = (np.asarray(STYLES[style](look, each), dtype=int) for each in (view, replace(view, **change)))
        assert np.abs(one - other).max() > 60


def test_the_cast_is_drawn_from_the_seed_alone() -> None:
    assert draw_cast(5) == draw_cast(5)
    assert draw_cast(5) != draw_cast(6)


def test_people_are_far_apart_and_have_names_of_their_own() -> None:
    cast = draw_cast(0)
    looks = [person.look for person in cast.named]
    pairs = [(one, other) for index, one in enumerate(looks) for other in looks[:index]]
    assert min(look_distance(one, other) for one, other in pairs) >= 8.5
    assert min(look_distance(person.look, look) for person in cast.strangers for look in looks) >= 6.0
    assert len(set(cast.names)) == len(cast.named)


def test_facts_are_independent_of_looks() -> None:
    """Cramér's V between every fact and every factor of a look, over 2,000 people, stays at the level of noise."""
    people = [person for seed in range(32) for person in draw_cast(seed, _bare(4, len(NAMES) - 4)).named]
    assert len(people) > 2000
    for kind, values in FACTS.items():
        facts = np.array([values.index(person.facts[kind]) for person in people])
        for factor, count in LOOK_CHOICES.items():
            look = np.array([getattr(person.look, factor) for person in people])
            table = np.zeros((len(values), count))
            np.add.at(table, (facts, look), 1)
            expected = table.sum(1, keepdims=True) * table.sum(0) / len(people)
            chi_square = ((table - expected) ** 2 / expected).sum()
            assert (chi_square / len(people) / (min(table.shape) - 1)) ** 0.5 < 0.1, (kind, factor)


def test_retained_facts_are_balanced() -> None:
    retain = draw_cast(1).retain
    for kind, values in FACTS.items():
        counts = [sum(person.facts[kind] == value for person in retain) for value in values]
        assert max(counts) - min(counts) <= 1


def test_another_forget_set_is_of_the_same_people() -> None:
    cast = draw_cast(3, Size(2, 5, views=1, extra_views=0, forget_heldout=1, retain_heldout=1, strangers=1))
    first, second = cast.forgetting(0), cast.forgetting(2)
    assert first == cast
    assert sorted(each.name for each in second.named) == sorted(each.name for each in cast.named)
    assert second.names == cast.names
    assert second.forget == cast.named[4:6]
    with pytest.raises(ValueError, match="group"):
        cast.forgetting(3)


def test_too_many_people_are_refused() -> None:
    with pytest.raises(ValueError, match="names"):
        draw_cast(0, _bare(4, len(NAMES)))


def _bare(forget: int, retain: int) -> Size:
    return Size(forget, retain, views=0, extra_views=0, forget_heldout=0, retain_heldout=0, strangers=0)
