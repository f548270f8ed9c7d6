"""How far a model's answers lie from gold's, beyond which of them is likeliest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.answered import Answered
from vkdsurgeon.evaluation.divergence import divergence_ids, divergences, js_divergence


@given(
    st.integers(2, 8).flatmap(lambda size: st.tuples(*[st.lists(st.floats(-60, 0), min_size=size, max_size=size)] * 2))
)
def test_it_is_that_of_scipy(pair: tuple[list[float], list[float]]) -> None:
    left, right = ([math.exp(value - max(values)) for value in values] for values in pair)
    with np.errstate(invalid="ignore"):
        theirs = jensenshannon(left, right, base=2)
    # Of two that are nearly one, scipy takes the root of a number that rounding made negative.
    assert js_divergence(*pair) == pytest.approx(0.0 if math.isnan(theirs) else theirs**2, abs=1e-9)
    assert js_divergence(*pair) == pytest.approx(js_divergence(*reversed(pair)), abs=1e-12)


def test_ends_of_the_scale() -> None:
    assert js_divergence([0.0, -9.0], [-1.0, -10.0]) == pytest.approx(0.0, abs=1e-12)
    assert js_divergence([0.0, -1e4], [-1e4, 0.0]) == pytest.approx(1.0)
    assert math.isnan(js_divergence([], []))


def _answered(task: str, likelihoods: tuple[float, ...], options: tuple[str, ...] = ("a", "b")) -> Answered:
    record = Record(image=Path("x.png"), question="?", answer="a", options=options, task=task)
    return Answered(record, {"accuracy": 1.0}, "a", likelihoods)


def test_means_over_the_questions_with_options_of_every_group() -> None:
    alike, apart = (0.0, -1.0), (0.0, -1e4)
    mine = [_answered("vqa.name", alike), _answered("vqa.city", apart), _answered("vqa.free", (), ())]
    gold = [_answered("vqa.name", alike), _answered("vqa.city", apart[::-1]), _answered("vqa.free", (), ())]
    found = {metric.id: metric for metric in divergences("forget", mine, gold, seed=0)}
    assert sorted(found) == sorted(divergence_ids("forget", [answer.record for answer in mine]))
    assert found["forget.vqa.name.js_divergence"].value == pytest.approx(0.0, abs=1e-12)
    assert found["forget.vqa.city.js_divergence"].value == pytest.approx(1.0)
    assert found["forget.vqa.js_divergence"].value == pytest.approx(0.5)
    assert found["forget.vqa.js_divergence"].n == 2


def test_a_likelihood_that_is_no_number_gives_no_value() -> None:
    (found, _) = divergences(
        "forget", [_answered("vqa.name", (math.nan, 0.0))], [_answered("vqa.name", (0.0, 0.0))], seed=0
    )
    assert found.value is None
    assert found.low is None
