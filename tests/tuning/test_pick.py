"""Fronts, and what rules take from them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.objective import OBJECTIVES
from vkdsurgeon.tuning.pick import RULES, Candidate, Rule, rule_named
from vkdsurgeon.tuning.result import Attempt, dominates, pareto_front
from vkdsurgeon.tuning.tune import _bounds

SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
RATES = ("forget_rate", "retain_rate", "general_rate")
VALUES = st.fixed_dictionaries(dict.fromkeys(OBJECTIVES, SHARES))


def attempts(values: list[dict[str, float]], **facts: Any) -> tuple[Attempt, ...]:
    return tuple(Attempt(number, {}, Recipe(), each, facts) for number, each in enumerate(values))


def candidates(*values: tuple[float, float, float], **more: float) -> list[Candidate]:
    return [
        Candidate(number, {**dict(zip(OBJECTIVES, each, strict=True)), **more}) for number, each in enumerate(values)
    ]


@given(st.lists(VALUES, min_size=1, max_size=12))
def test_a_front_holds_what_nothing_dominates(values: list[dict[str, float]]):
    tried = attempts(values)
    front = [each.values for each in pareto_front(tried)]
    assert front
    assert not any(dominates(one, other) for one in front for other in front)
    assert all(each in front or any(dominates(member, each) for member in front) for each in values)
    assert len({tuple(each[name] for name in OBJECTIVES) for each in front}) == len(front)


def test_failed_trials_are_on_no_front():
    failed = Attempt(0, {}, Recipe(), {}, {}, reason="the loss became nan")
    assert pareto_front((failed, *attempts([dict.fromkeys(OBJECTIVES, 1.0)]))) != ()
    assert pareto_front((failed,)) == ()


@given(st.lists(VALUES, min_size=1, max_size=12), st.sampled_from(["forget", "retain", "robust"]))
def test_a_named_rule_is_always_satisfied_and_never_worse_than_the_start(values: list[dict[str, float]], name: str):
    tried = attempts(values)
    front = [each.candidate for each in pareto_front(tried)]
    taken = rule_named(name, rates=False).pick(front, values[0])
    assert taken is not None
    assert taken.values[name] <= values[0][name]
    guarded = {"forget": ["retain"], "retain": ["forget"], "robust": ["forget", "retain"]}[name]
    assert all(taken.values[other] <= values[0][other] for other in guarded)


def test_a_rule_takes_the_best_of_what_loses_nothing():
    front = candidates((0.0, 0.5, 0.9), (0.2, 0.02, 0.8), (0.3, 0.01, 0.1))
    start = {"forget": 0.25, "retain": 0.02, "robust": 0.9}
    assert RULES["forget"].pick(front, start).trial == 1
    assert RULES["retain"].pick(front, start).trial == 1
    assert RULES["retain"].pick(front, {**start, "forget": 0.3}).trial == 2
    assert RULES["robust"].pick(front, start).trial == 1
    assert RULES["forget"].pick(front, {**start, "retain": 0.001}) is None
    assert RULES["forget"].pick(front, {}) is None, "a start recipe that failed compares with nothing"


def test_of_the_rates_of_what_is_kept_more_is_better():
    values = ((0.1, 0.9, 0.7), (0.1, 0.8, 0.9), (0.1, 0.9, 0.8), (0.3, 0.9, 0.9))
    front = [
        Candidate(number, dict.fromkeys(OBJECTIVES, 0.5) | dict(zip(RATES, each, strict=True)))
        for number, each in enumerate(values)
    ]
    assert RULES["general"].pick(front, dict(zip(RATES, (0.1, 0.9, 0.5), strict=True))).trial == 2


def test_the_knee_is_near_the_best_of_all():
    front = candidates((0.0, 1.0, 1.0), (0.1, 0.1, 0.1), (1.0, 0.0, 0.0))
    assert RULES["knee"].pick(front, {}).trial == 1
    assert RULES["knee"].pick(candidates((0.5, 0.5, 0.5)), {}).trial == 0


def test_runs_that_met_the_stop_rule_go_first():
    met, unmet = (
        Candidate(number, {**dict.fromkeys(OBJECTIVES, value), "stop_rule": rule})
        for number, value, rule in ((0, 0.2, 1.0), (1, 0.1, 0.0))
    )
    least = Rule("least", "forget")
    assert least.pick([met, unmet], {}).trial == 0
    assert least.pick([unmet], {}).trial == 1


@pytest.mark.parametrize("text", ["", "best", "min forget where retain<=0.02"])
def test_other_names_are_refused(text: str):
    with pytest.raises(UserError, match="unknown rule") as caught:
        rule_named(text, rates=False)
    assert all(name in str(caught.value) for name in RULES)


def test_a_rule_on_answers_needs_answers():
    with pytest.raises(UserError, match="`validation_forget`"):
        rule_named("general", rates=False)
    assert rule_named("general", rates=True) is RULES["general"]


def test_below_chance_is_no_better_than_chance():
    start = Attempt(0, {}, Recipe(), {"forget": 0.01, "retain": 0.5, "robust": 0.9}, {"parts": {"kept_drift": 0.4}})
    objectives = {"forget": {"chance": 0.05}, "retain": {}, "robust": {"chance": 0.05}}
    assert _bounds(start, objectives) == {
        "forget": 0.05,
        "retain": 0.5,
        "robust": 0.9,
        "kept_drift": 0.4,
        "seconds": 0.0,
    }
    asked = Attempt(0, {}, Recipe(), {"forget": 0.04, "retain": 0.5, "robust": 0.9}, {"parts": {"forget_rate": 0.04}})
    assert _bounds(asked, {"forget": {"chance": 0.1}, "retain": {}, "robust": {}})["forget_rate"] == 0.1
    assert _bounds(Attempt(0, {}, Recipe(), {}, {}, reason="out of memory"), objectives) == {}
