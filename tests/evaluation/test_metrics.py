"""Numbers from hand-made answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.evaluation.metrics import (
    bootstrap,
    compare_answers,
    comparison_ids,
    differences,
    metric_ids,
    summarise,
    wilson,
)
from vkdsurgeon.evaluation.score import Answered
from vkdsurgeon.evaluation.text import normalise, text_values
from vkdsurgeon.evaluation.warnings import warnings_for


def choice(
    task: str, right: float, *, image: bool = True, options: int = 4, said: str = "a", view: int = 0
) -> Answered:
    record = Record(
        image=Path(f"/p{view}.png") if image else None,
        question="q",
        answer="a",
        options=tuple("abcdefgh"[:options]),
        task=task,
    )
    return Answered(record, {"accuracy": right}, said, (-1.0, -2.0))


def by_id(metrics: list) -> dict:
    return {metric.id: metric for metric in metrics}


def test_every_prefix_of_a_task_is_a_group() -> None:
    assert groups_of("text.forget.name") == ["text", "text.forget", "text.forget.name"]
    answers = [choice("vqa.name", 1.0, options=8), choice("vqa.city", 0.0), choice("vqa.city", 0.0), choice("vqa", 1.0)]
    metrics = by_id(summarise("forget", answers, forget=True, seed=0))
    assert {name: (m.value, m.n) for name, m in metrics.items()} == {
        "forget.vqa.accuracy": (0.5, 4),
        "forget.vqa.name.accuracy": (1.0, 1),
        "forget.vqa.city.accuracy": (0.0, 2),
    }
    assert metrics["forget.vqa.accuracy"].chance == pytest.approx((1 / 8 + 3 / 4) / 4)


def test_ids_are_known_before_anything_is_asked() -> None:
    answers = [choice("vqa.name", 1.0), choice("text.city", 1.0, image=False)]
    generated = Record(image=Path("/p.png"), question="q", answer="a", task="vqa.say")
    answers.append(Answered(generated, text_values("a", "a"), "a"))
    records = [answer.record for answer in answers]
    assert sorted(metric_ids("x", records)) == sorted(by_id(summarise("x", answers, forget=False, seed=0)))
    assert sorted(comparison_ids("x", records)) == sorted(by_id(compare_answers("x", answers, answers)))


def test_direction_is_lower_for_what_is_to_be_forgotten_only() -> None:
    answers = [choice("vqa.name", 1.0), choice("general.side", 1.0), choice("text.name", 1.0, image=False)]
    assert {m.id: m.direction for m in summarise("forget", answers, forget=True, seed=0) if m.id.count(".") == 2} == {
        "forget.vqa.accuracy": "lower",
        "forget.general.accuracy": "higher",
        "forget.text.accuracy": "higher",
    }
    assert {m.direction for m in summarise("retain", answers, forget=False, seed=0)} == {"higher"}


def test_one_value_that_is_not_a_number_spoils_its_groups_only() -> None:
    metrics = by_id(summarise("forget", [choice("vqa.name", math.nan), choice("vqa.city", 1.0)], forget=True, seed=0))
    assert metrics["forget.vqa.accuracy"].value is None
    assert metrics["forget.vqa.accuracy"].low is None
    assert metrics["forget.vqa.city.accuracy"].value == 1.0


def test_wilson_and_bootstrap_agree_with_known_values() -> None:
    assert wilson(np.array([1.0] * 10 + [0.0] * 40)) == pytest.approx((0.112436, 0.330374), abs=1e-5)
    assert wilson(np.zeros(10)) == pytest.approx((0.0, 0.277533), abs=1e-5)
    values = np.linspace(0, 1, 200)
    low, high = bootstrap(values, 3)
    assert low is not None
    assert high is not None
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.15)
    assert bootstrap(values, 3) == (low, high) != bootstrap(values, 4)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_a_wilson_interval_holds_the_share(values: list[float]) -> None:
    low, high = wilson(np.array(values))
    assert low is not None
    assert high is not None
    assert 0.0 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1.0


def test_differences_are_paired() -> None:
    mine = [choice("vqa", float(i % 2), view=i) for i in range(20)]
    same = by_id(differences("delta.forget", mine, mine, forget=True))["delta.forget.vqa.accuracy"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = [choice("vqa", 0.0, view=i) for i in range(20)]
    gap = by_id(differences("delta.forget", mine, worse, forget=True))["delta.forget.vqa.accuracy"]
    assert gap.value == 0.5
    assert gap.low is not None
    assert 0.0 < gap.low < 0.5


def test_agreement_counts_answers_and_identity_counts_bits() -> None:
    mine = [choice("text.a", 1.0, image=False), choice("text.b", 1.0, image=False), choice("vqa", 1.0)]
    theirs = [
        choice("text.a", 1.0, image=False),
        Answered(mine[1].record, {"accuracy": 1.0}, "a", (-1.0, -2.0000001)),
        choice("vqa", 0.0, said="b"),
    ]
    metrics = by_id(compare_answers("text", mine, theirs))
    assert metrics["text.text.agreement"].value == 1.0
    assert metrics["text.text.identical"].value == 0.5
    assert metrics["text.vqa.agreement"].value == 0.0
    assert "text.vqa.identical" not in metrics


@pytest.mark.parametrize(
    ("said", "answer", "exact", "contains"),
    [
        ("The Eiffel Tower.", "eiffel tower", 1.0, 1.0),
        ("It is the Eiffel-Tower, I think", "Eiffel Tower", 0.0, 1.0),
        ("Annabel", "Ann", 0.0, 0.0),
        ("", "Ann", 0.0, 0.0),
        ("ＡＮＮ", "Ann", 1.0, 1.0),
    ],
)
def test_generated_text(said: str, answer: str, exact: float, contains: float) -> None:
    values = text_values(said, answer)
    assert (values["exact"], values["contains"]) == (exact, contains)


def test_rouge_l_is_the_stemmed_f_measure() -> None:
    assert text_values("the cats sat", "a cat sat")["rouge_l"] == pytest.approx(2 / 3)


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_samples_keep_the_proportions_of_tasks_and_follow_the_seed() -> None:
    records = [Record(question=str(i), task="a" if i < 60 else "b.c") for i in range(90)]
    drawn = sample(records, 31, 0)
    assert len(drawn) == 31
    assert sum(record.task == "a" for record in drawn) in (20, 21)
    assert drawn == sample(records, 31, 0) != sample(records, 31, 1)
    assert [int(r.question or "") for r in drawn] == sorted(int(r.question or "") for r in drawn)
    assert sample(records, None, 0) == sample(records, 90, 0) == records


def test_warnings_where_a_forget_metric_means_nothing() -> None:
    def warn(model: float, base: float, gold: float, n: int = 100) -> list[str]:
        def answers(share: float) -> list[Answered]:
            return [choice("vqa", float(i < share * n)) for i in range(n)]

        metrics = [
            metric
            for name, share in (("forget", model), ("reference.forget", base), ("gold.forget", gold))
            for metric in summarise(name, answers(share), forget=True, seed=0)
        ]
        return warnings_for([NamedSet("forget", ())], metrics)

    assert warn(0.25, 0.9, 0.25) == []
    assert "less than 5 points" in warn(0.25, 0.39, 0.37, n=10_000)[0]
    assert "less than 5 points" in warn(0.25, 0.37, 0.39)[0]
    assert "no more than noise" in warn(0.25, 0.45, 0.37)[0]
    assert "nothing to forget" in warn(0.25, 0.30, 0.05)[0]
    assert "below chance" in warn(0.02, 0.9, 0.25)[0]
    assert "rests on 12 records" in warn(0.25, 1.0, 0.0, n=12)[0]
