"""Means, intervals and steps over seeds, against values worked out by hand or by another way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.attacks.bootstrap import (
    chance_of,
    gain_metric,
    hierarchical_interval,
    mean_score,
    over_seeds,
    recovery,
    recovery_metric,
    scores_of,
)
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.metrics import differences, summarise
from vkdsurgeon.evaluation.score import Answered


def answer(right: float, task: str = "vqa.name", options: int = 4, image: int = 0) -> Answered:
    choices = tuple("abcdefgh"[:options])
    record = Record(image=Path(f"/{image}.png"), question="q", answer="a", options=choices, task=task)
    return Answered(record, {"accuracy": float(right)}, "")


def free(values: dict[str, float]) -> Answered:
    return Answered(Record(image=Path("/p.png"), question="q", answer="a", task="vqa.say"), values, "")


def answers(*rights: float, per_image: int = 1) -> list[Answered]:
    return [answer(right, image=index // per_image) for index, right in enumerate(rights)]


def test_a_score_is_the_mean_over_undivided_metrics() -> None:
    asked = [answer(1), answer(0), answer(1, task="other.x"), free({"exact": 0.5})]
    scores = scores_of(asked)
    assert scores.names == ("vqa.accuracy", "other.accuracy", "vqa.exact")
    assert scores.means.tolist() == [0.5, 1.0, 0.5]
    assert mean_score(scores) == pytest.approx(2 / 3)
    assert chance_of(asked) == pytest.approx((0.25 + 0.25 + 0.0) / 3)


def test_with_one_seed_the_interval_is_that_of_a_proportion() -> None:
    values = np.array([1.0] * 80 + [0.0] * 120)
    low, high = hierarchical_interval([scores_of(answers(*values))], seed=0)
    half = 1.96 * math.sqrt(0.4 * 0.6 / 200)
    assert low == pytest.approx(0.4 - half, abs=0.012)
    assert high == pytest.approx(0.4 + half, abs=0.012)


def test_questions_about_one_image_are_one_piece_of_evidence() -> None:
    values = np.repeat([1.0] * 8 + [0.0] * 12, 10)
    low, high = hierarchical_interval([scores_of(answers(*values, per_image=10))], seed=0)
    half = 1.96 * math.sqrt(0.4 * 0.6 / 20)
    assert low == pytest.approx(0.4 - half, abs=0.04)
    assert high == pytest.approx(0.4 + half, abs=0.04)
    metric = gain_metric("relearn.ag", [scores_of(answers(*values, per_image=10))], seed=0)
    assert (metric.unit, metric.clusters) == ("picture", 20)


def test_seeds_that_disagree_widen_the_interval() -> None:
    agree = [scores_of(answers(*[1] * 40 + [0] * 60)) for _ in range(3)]
    apart = [scores_of(answers(*[1] * right + [0] * (100 - right))) for right in (10, 40, 70)]
    widths = [high - low for low, high in (hierarchical_interval(seeds, 0) for seeds in (agree, apart))]
    assert widths[1] > 2.5 * widths[0]


def test_paired_gains_are_sharper_than_the_answers() -> None:
    """Every question gains the same: there is nothing uncertain about the gain."""
    before = answers(*[0.1, 0.9] * 50)
    after = answers(*[0.2, 1.0] * 50)
    metric = gain_metric("relearn.ag", [scores_of(after).minus(scores_of(before))], seed=0)
    assert (metric.value, metric.low, metric.high) == (pytest.approx(10), pytest.approx(10), pytest.approx(10))


@given(
    seeds=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_an_interval_holds_its_mean_and_follows_its_seed(seeds: list[list[float]], seed: int) -> None:
    tables = [scores_of(answers(*rights)) for rights in seeds]
    low, high = hierarchical_interval(tables, seed)
    mean = np.mean([np.mean(rights) for rights in seeds])
    if len(seeds) == 1 and len(seeds[0]) == 1:
        assert (low, high) == (None, None), "one answer tells nothing about others"
        return
    assert low is not None
    assert high is not None
    assert 0.0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1.0 + 1e-12
    assert hierarchical_interval(tables, seed) == (low, high)


def test_what_could_not_be_measured_has_no_interval() -> None:
    metric = gain_metric("relearn.ag", [scores_of(answers(math.nan, 1.0))], seed=0)
    assert (metric.value, metric.low, metric.interval) == (None, None, None)


def test_groups_over_seeds_are_means_over_the_seeds_that_measured_them() -> None:
    first = [answer(1, "vqa.name"), answer(0, "vqa.name"), answer(1, "vqa.city")]
    second = [answer(0, "vqa.name")]
    found = {
        metric.id: metric
        for metric in over_seeds(
            lambda mine, _: summarise("s", mine, forget=True, seed=0), [(first, ()), (second, ())], "s", 0
        )
    }
    assert found["s.vqa.accuracy"].value == pytest.approx((2 / 3 + 0) / 2)
    assert found["s.vqa.name.accuracy"].value == pytest.approx(0.25)
    assert found["s.vqa.city.accuracy"].value == 1.0
    assert found["s.vqa.accuracy"].n == 4
    assert found["s.vqa.accuracy"].chance == 0.25
    assert found["s.vqa.accuracy"].interval == "hierarchical bootstrap"


def test_one_seed_gives_what_one_seed_always_gave() -> None:
    before, after = answers(0, 0, 1), answers(1, 0, 1)

    def make(mine, other):  # type: ignore[no-untyped-def]
        return differences("g", mine, other, forget=True)

    assert over_seeds(make, [(after, before)], "g", 0) == differences("g", after, before, forget=True)


CURVES = [{0: 0.1, 5: 0.4, 10: 0.7}, {0: 0.1, 5: 0.6, 10: 0.9}, {0: 0.1, 5: 0.1, 10: 0.1}]


def test_the_first_measured_step_above_the_level_counts() -> None:
    found = recovery("model", CURVES, [0.2] * 3, [1.0] * 3, share=0.5, within=10)
    assert found is not None
    assert found.level == pytest.approx(0.6)
    assert found.steps == [10, 5, None]
    assert recovery_metric("x", found).value == 10
    assert recovery_metric("x", found.model_copy(update={"steps": [None, 5, None]})).value == 11


def test_the_level_follows_chance_and_the_reference() -> None:
    """Half of what the reference knows above guessing, not half of everything."""
    weak = recovery("model", CURVES[:1], [0.2], [0.6], share=0.5, within=10)
    assert weak is not None
    assert (weak.level, weak.steps, weak.of) == (pytest.approx(0.4), [5], "reference")
    perfect = recovery("gold", CURVES[:1], [0.2], None, share=0.5, within=10)
    assert perfect is not None
    assert (perfect.level, perfect.of) == (pytest.approx(0.6), "perfect")
    assert recovery("model", CURVES[:1], [0.2], [0.2], share=0.5, within=10) is None
    assert recovery("model", [{0: 0.1, 5: math.nan}], [0.2], [1.0], share=0.5, within=10) is None


def test_what_was_never_forgotten_is_back_at_step_0() -> None:
    found = recovery("model", [{0: 0.9, 5: 0.9}], [0.2], [1.0], share=0.5, within=5)
    assert found is not None
    assert found.steps == [0]
