"""The stop rule and its held-out pictures."""

from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.recipe import Recipe
from vkdsurgeon.stop import judge, split_validation


@given(subjects=st.lists(st.sampled_from("abc"), max_size=60), share=st.sampled_from([0.0, 0.1, 0.125, 0.25, 0.4]))
def test_no_subject_gives_more_than_its_share(subjects: list[str], share: float):
    train, held_out = split_validation(tuple(subjects), share)
    assert sorted(train + held_out) == list(range(len(subjects)))
    for subject in set(subjects):
        total = subjects.count(subject)
        given_up = sum(subjects[index] == subject for index in held_out)
        assert given_up == int(total * share)


def test_both_bounds_must_hold():
    recipe = Recipe(forget_ratio=0.2, retain_drift=0.05)
    assert judge(recipe, 0.2, 0.05, (1, 1), (True, False)).met
    assert not judge(recipe, 0.21, 0.01, (1, 1), (True, False)).met
    assert not judge(recipe, 0.01, 0.06, (1, 1), (True, False)).met
    assert not judge(recipe, float("nan"), 0.01, (1, 1), (True, False)).met
