"""The stop rule and its held-out images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.splits import split_pooled, split_validation
from vkdsurgeon.vision_pass.identity_classifier import most_by_chance
from vkdsurgeon.vision_pass.state import TrainingState
from vkdsurgeon.vision_pass.stop_rule import Seen, Verdict, choose, judge

SEEN = {
    "forget_ratio": 0.1,
    "retain_drift": 0.05,
    "pictures": (20, 100),
    "originals": 20,
    "held_out": (True, True),
    "own": 0,
    "base_own": 20,
    "subjects": 24,
    "readable": 100,
    "agree": 100,
    "reach": 0.9,
}


def seen(recipe: Recipe = Recipe(), **changes: object) -> Verdict:
    return judge(recipe, Seen(**{**SEEN, **changes}))  # type: ignore[arg-type]


def test_an_extension_in_vain_is_the_last_unless_retention_alone_failed():
    better, worse = seen(own=6, retain_drift=0.05), seen(own=7, retain_drift=0.05)
    careless = seen(own=0, retain_drift=0.5)
    for verdicts, goes_on in (([better, worse], False), ([better, careless], True)):
        state = TrainingState(None, (), None, Recipe(extensions=4), verdicts=verdicts, best=(0, {}))  # type: ignore[arg-type]
        assert state.choice is not None
        assert state.choice.index == 0
        assert state.open is goes_on


@given(subjects=st.lists(st.sampled_from("abc"), max_size=60), share=st.sampled_from([0.0, 0.1, 0.125, 0.25, 0.4]))
def test_no_subject_gives_more_than_its_share(subjects: list[str], share: float):
    train, held_out = split_validation(tuple(subjects), share)
    assert sorted(train + held_out) == list(range(len(subjects)))
    for subject in set(subjects):
        total = subjects.count(subject)
        given_up = sum(subjects[index] == subject for index in held_out)
        assert given_up == int(total * share)


@given(subjects=st.lists(st.sampled_from("abcdefghijklmnop"), max_size=90), share=st.sampled_from([0.0, 0.125, 0.25]))
def test_images_of_a_retain_set_are_held_out_however_few_there_are_of_each_subject(subjects: list[str], share: float):
    train, held_out = split_pooled(tuple(subjects), share)
    assert sorted(train + held_out) == list(range(len(subjects)))
    assert held_out == sorted(held_out)
    few = [subject for subject in set(subjects) if int(subjects.count(subject) * share) == 0]
    pooled = [index for index in held_out if subjects[index] in few]
    assert len(pooled) == int(sum(subjects.count(subject) for subject in few) * share)
    assert len({subjects[index] for index in pooled}) == len(pooled), "at most one of each"
    if any(subjects.count(subjects[index]) == 1 for index in pooled):
        spared = {subjects[index] for index in pooled}
        assert all(subject in spared for subject in few if subjects.count(subject) > 1), "those that keep another first"


@given(images=st.integers(0, 400), chance=st.floats(0.001, 0.5))
def test_more_than_chance_is_significant(images: int, chance: float):
    from scipy.stats import binom

    allowed = most_by_chance(images, chance)
    assert 0 <= allowed <= images
    assert binom.sf(allowed, images, chance) <= 0.05


def test_every_bound_must_hold():
    assert seen().met
    assert seen(own=2).met
    assert not seen(own=3).met
    assert seen(agree=95).met
    assert not seen(agree=94).met
    assert not seen(retain_drift=0.13).met
    assert not seen(retain_drift=float("nan")).met


def test_copies_of_an_image_are_no_evidence_apart_from_it():
    """One of four images may read right by chance; so may its five copies, which read alike."""
    assert seen(originals=4, own=5).met
    assert not seen(originals=4, own=6).met
    assert not seen(originals=20, own=5).met


def test_a_teacher_that_reads_nobody_is_judged_by_the_way_gone():
    assert seen(base_own=1, own=0).met
    assert not seen(base_own=1, own=0, reach=0.5).met


def test_what_the_recipe_grants_comes_on_top():
    assert seen(Recipe(forget_reading=0.2), own=6).met
    assert not seen(Recipe(forget_reading=0.2), own=7).met
    assert seen(Recipe(retain_reading=0.2), agree=75).met


@pytest.mark.parametrize(
    ("verdicts", "best", "reason"),
    [
        ([seen(own=9), seen(own=0), seen(own=0)], 1, "was met"),
        ([seen(own=9), seen(own=5), seen(own=3, retain_drift=0.5)], 1, "fewest"),
        ([seen(own=9, forget_ratio=0.5), seen(own=9, forget_ratio=0.4)], 1, "fewest"),
        ([seen(retain_drift=0.5), seen(retain_drift=0.3), seen(retain_drift=float("nan"))], 1, "lowest retain drift"),
    ],
)
def test_the_best_verdict_is_chosen_without_labels(verdicts: list[Verdict], best: int, reason: str):
    choice = choose(verdicts, range(len(verdicts)))
    assert choice.index == best
    assert reason in choice.reason
