"""Gates parse or are refused, and only a finite value within its bound passes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.errors import GateFailed, UserError
from vkdsurgeon.evaluation.gates import check_gates, judge, parse_gates
from vkdsurgeon.results.evaluation import Gated, GateOutcome

ID = "forget.vqa.accuracy"


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        (f"{ID}<=0.10", 0.10, True),
        (f"{ID}<=0.10", 0.1001, False),
        (f"{ID}<0.10", 0.10, False),
        (f" {ID} >= .5 ", 0.5, True),
        (f"{ID}>0.5", 0.5, False),
        (f"{ID}==1", 1.0, True),
        (f"{ID}==1", 0.999, False),
        (f"{ID}>=-1e-3", 0.0, True),
        (f"{ID}<=0.10", math.nan, False),
        (f"{ID}>=0.10", math.nan, False),
        (f"{ID}<=0.10", None, False),
    ],
)
def test_a_plain_bound(text: str, value: float | None, passed: bool) -> None:
    assert judge(parse_gates([text]), {ID: value})[0].passed is passed


@pytest.mark.parametrize(
    ("bound", "expected"), [("reference", 0.8), ("reference-0.03", 0.77), ("gold + 0.05", 0.15), ("gold+5e-2", 0.15)]
)
def test_a_bound_relative_to_another_model(bound: str, expected: float) -> None:
    values = {ID: 0.77, f"reference.{ID}": 0.8, f"gold.{ID}": 0.1}
    outcome = judge(parse_gates([f"{ID}>={bound}"]), values)[0]
    assert outcome.bound == pytest.approx(expected)
    assert outcome.passed is (outcome.bound <= 0.77)
    assert judge(parse_gates([f"{ID}>={bound}"]), {ID: 0.77})[0].passed is False


@pytest.mark.parametrize(
    "text",
    ["", ID, f"{ID}<=", f"{ID}=0.1", f"{ID}<=10%", f"{ID}<=nan", f"{ID}<=inf", f"{ID}<=1e999", "<=0.1",
     f"{ID}<=reference*2", f"{ID}<=reference-", f"{ID}<=gold-x", f"{ID}<=0.1 extra", f"{ID}=>0.1", "a b<=1"],
)  # fmt: skip
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="`gates`"):
        parse_gates([text])


@given(
    st.text(max_size=30) | st.from_regex(r"[a-z.]{1,9}(<=|>=|<|>|==)(gold|reference)?[-+]?[0-9.e]{0,6}", fullmatch=True)
)
def test_any_text_is_a_gate_with_a_finite_bound_or_a_user_error(text: str) -> None:
    try:
        gate = parse_gates([text])[0]
    except UserError:
        return
    assert math.isfinite(gate.number)
    assert gate.needs[0] == gate.metric


def test_unknown_metrics_are_refused_with_the_known_ones() -> None:
    known = [ID, "retain.vqa.accuracy"]
    check_gates(parse_gates([f"{ID}<=0.1"]), known)
    with pytest.raises(
        UserError, match=r"(?s)forget\.vqa\.acuracy.*retain\.vqa\.accuracy.*did you mean forget\.vqa\.acc"
    ):
        check_gates(parse_gates(["forget.vqa.acuracy<=0.1"]), known)
    with pytest.raises(UserError, match=r"(?s)reference\.forget.*give `base`"):
        check_gates(parse_gates([f"{ID}<=reference"]), known)


def test_failures_are_told_one_by_one() -> None:
    outcomes = judge(parse_gates([f"{ID}<=0.1", f"{ID}<=0.9", "retain.vqa.accuracy>=0.5"]), {ID: 0.5})

    class Result(Gated):
        def __init__(self, gates: list[GateOutcome]) -> None:
            self.gates = gates

    assert not Result(outcomes).passed
    with pytest.raises(GateFailed) as caught:
        Result(outcomes).raise_if_failed()
    assert len(caught.value.failures) == 2
    assert "0.5000 (bound 0.1000)" in caught.value.failures[0]
    assert "could not be measured" in caught.value.failures[1]
    Result(outcomes[1:2]).raise_if_failed()
