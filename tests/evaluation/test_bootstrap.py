"""Intervals that know which questions hang together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.bootstrap import Clusters, clusters_of, paired_bootstrap


def records(subjects: int, views: int, questions: int) -> list[Record]:
    return [
        Record(image=Path(f"/{subject}-{view}.png"), subject=f"s{subject}", question=str(number))
        for subject in range(subjects)
        for view in range(views)
        for number in range(questions)
    ]


def test_the_widest_unit_of_which_there_are_enough() -> None:
    assert (clusters_of(records(12, 2, 3)).unit, clusters_of(records(12, 2, 3)).count) == ("subject", 12)
    few = clusters_of(records(4, 5, 3))
    assert (few.unit, few.count) == ("picture", 20)
    assert few.index.tolist() == [i // 3 for i in range(60)]
    tiny = clusters_of(records(4, 1, 3))
    assert (tiny.unit, tiny.count) == ("subject", 4)
    bare = clusters_of([Record(question=str(i)) for i in range(5)])
    assert (bare.unit, bare.count) == ("question", 5)
    mixed = clusters_of([*records(1, 1, 3), Record(question="a"), Record(question="b")])
    assert mixed.count == 3


def test_every_question_on_its_own_gives_the_normal_interval() -> None:
    gaps = np.random.default_rng(0).normal(0.3, 1.0, 400)
    low, high = paired_bootstrap(gaps, Clusters("question", np.arange(400), 400), 0)
    assert low is not None
    assert high is not None
    half = 1.96 * gaps.std(ddof=1) / 20
    assert (low, high) == pytest.approx((gaps.mean() - half, gaps.mean() + half), abs=0.02)


def test_copies_of_a_question_add_no_knowledge() -> None:
    gaps = np.random.default_rng(1).normal(0.0, 1.0, 40)
    alone = paired_bootstrap(gaps, Clusters("picture", np.arange(40), 40), 0)
    copied = paired_bootstrap(np.repeat(gaps, 25), Clusters("picture", np.repeat(np.arange(40), 25), 40), 0)
    assert copied == pytest.approx(alone)
    naive = paired_bootstrap(np.repeat(gaps, 25), Clusters("question", np.arange(1000), 1000), 0)
    assert copied[1] - copied[0] > 4 * (naive[1] - naive[0])  # type: ignore[operator]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    index = np.repeat(np.arange(30), 6)
    held, naively = 0, 0
    for seed in range(200):
        gaps = generator.normal(0.0, 1.0, 30)[index] + generator.normal(0.0, 0.5, 180)
        low, high = paired_bootstrap(gaps, Clusters("subject", index, 30), seed)
        half = 1.96 * gaps.std(ddof=1) / np.sqrt(180)
        assert low is not None
        assert high is not None
        held += low <= 0 <= high
        naively += abs(gaps.mean()) <= half
    assert 0.88 <= held / 200 <= 0.99
    assert naively / 200 < 0.75


def test_one_cluster_tells_nothing_about_others() -> None:
    assert paired_bootstrap(np.array([0.0, 1.0]), Clusters("picture", np.zeros(2, dtype=int), 1), 0) == (None, None)
    assert paired_bootstrap(np.array([0.0, np.nan]), Clusters("picture", np.arange(2), 2), 0) == (None, None)


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 5)), min_size=2, max_size=40), st.integers(0, 3))
def test_intervals_stay_among_the_means_of_clusters_and_repeat(pairs: list[tuple[float, int]], seed: int) -> None:
    gaps = np.array([gap for gap, _ in pairs])
    _, index = np.unique([number for _, number in pairs], return_inverse=True)
    clusters = Clusters("picture", index, int(index.max()) + 1)
    low, high = paired_bootstrap(gaps, clusters, seed)
    if clusters.count == 1:
        assert low is None
        return
    means = [gaps[index == number].mean() for number in range(clusters.count)]
    assert low is not None
    assert high is not None
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9
    assert paired_bootstrap(gaps, clusters, seed) == (low, high)
