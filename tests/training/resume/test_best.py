"""What is written when the budget ends first, and how a run goes on from there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.resume.runs import DECODER, RECIPE, Ear, Place, asked, files, go, journal, stop
from vkdsurgeon.errors import UserError
from vkdsurgeon.vision_pass.stop_rule import Seen, Verdict, choose, judge

NUMBERS = st.one_of(st.floats(0, 3), st.just(float("nan")), st.just(float("inf")), st.sampled_from([0.1, 0.2]))


RECIPE_BOUNDS = RECIPE.model_copy(update={"retain_drift": 0.1})


def verdicts(pairs: list[tuple[float, float]]) -> list[Verdict]:
    """Verdicts of a forget ratio and a drift each; the fewer images still read as their own, the lower the ratio."""
    return [
        judge(
            RECIPE_BOUNDS,
            Seen(
                forget_ratio=ratio,
                retain_drift=drift,
                pictures=(20, 20),
                originals=20,
                held_out=(True, True),
                own=int(20 * ratio) if ratio <= 1 else 20,
                base_own=20,
                subjects=20,
                readable=20,
                agree=20,
                reach=0.5,
            ),
        )
        for ratio, drift in pairs
    ]


@pytest.mark.parametrize(
    ("pairs", "index", "reason"),
    [
        ([(0.5, 0.05), (0.4, 0.09), (0.1, 0.2)], 1, "the fewest forget images"),
        ([(0.5, 0.2), (0.19, 0.12), (0.9, 0.11)], 2, "lowest retain drift"),
        ([(0.5, 0.05), (0.1, 0.1)], 1, "was met"),
        ([(float("nan"), 0.05), (9.0, 9.0)], 0, "lowest retain drift"),
        ([(0.5, 0.05), (0.5, 0.05)], 0, "the fewest forget images"),
    ],
)
def test_the_rule(pairs: list[tuple[float, float]], index: int, reason: str) -> None:
    choice = choose(verdicts(pairs), range(len(pairs)))
    assert choice.index == index
    assert reason in choice.reason


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_keeping_the_best_so_far_is_enough(pairs: list[tuple[float, float]]) -> None:
    found = verdicts(pairs)
    best = 0
    for latest in range(len(found)):
        best = choose(found, (best, latest)).index
        assert best == choose(found, range(latest + 1)).index


def test_a_run_that_gets_worse_writes_its_best_state(here: Place, tmp_path: Path) -> None:
    # Without retention every schedule costs more of it.
    recipe = RECIPE.model_copy(
        update={
            "retain_weight": 0.0,
            "forget_target": "common",
            "steps": 4,
            "step_size": 0.02,
            "tamper_weight": 0.0,
            "extensions": 1,
            "retain_reading": 1.0,
            "retain_drift": 9.0,
        }
    )
    drifts = [verdict.retain_drift for verdict in go(asked(here, tmp_path / "probe", recipe)).verdicts]
    assert drifts[0] < drifts[1]
    bounded = recipe.model_copy(update={"retain_drift": (drifts[0] + drifts[1]) / 2, "extensions": 2})
    result = go(asked(here, tmp_path / "out", bounded))
    assert result.choice is not None
    assert result.verdict is not None
    assert (result.choice.index, len(result.verdicts)) == (0, 2), "an extension in vain is the last"
    assert result.as_dict()["stop_rule_written"]["index"] == 0
    assert "the fewest forget images" in result.choice.reason
    assert not result.verdict.met
    kept = journal(tmp_path / "out")["passes"]["visual"]
    assert kept["facts"]["written"] == {"index": 0, "reason": result.choice.reason}
    assert kept["files"]["best"]["file"] == "visual-best-0.safetensors"
    go(asked(here, tmp_path / "short", bounded.model_copy(update={"extensions": 0})))
    assert weights(tmp_path / "out") == weights(tmp_path / "short")

    stop(asked(here, tmp_path / "again", bounded), "step 5")
    go(asked(here, tmp_path / "again", bounded, resume=True))
    assert files(tmp_path / "again") == files(tmp_path / "out")


def test_a_larger_budget_goes_on_from_the_last_state(here: Place, tmp_path: Path) -> None:
    small, large = (RECIPE.model_copy(update={"extensions": number}) for number in (0, 2))
    first = go(asked(here, tmp_path / "first", small))
    assert first.journal == tmp_path / "first.journal"
    go(asked(here, tmp_path / "whole", large))
    ear = Ear()
    with pytest.raises(UserError, match="not empty"):
        go(asked(here, tmp_path / "first", large, resume=True))
    go(asked(here, tmp_path / "out", large, resume=True, journal=first.journal), ear)
    assert ear.events.count("step") == 8
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.campaign
def test_a_decoder_pass_is_made_anew_for_another_student(here: Place, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Its mask and states bear other names than those of the pass that the smaller budget ended with."""
    small, large = (RECIPE.model_copy(update={"extensions": number, "decoder": DECODER}) for number in (0, 1))
    place = go(asked(here, tmp_path / "first", small)).journal
    request = asked(here, tmp_path / "out", large, resume=True, journal=place)
    ear = stop(request, "decoder step 3")
    assert ear.events.count("step") == 4
    ear = Ear()
    go(request, ear)
    assert ear.events.count("decoder step") == 2
    assert files(tmp_path / "out") == whole


def test_other_bounds_judge_what_is_there(here: Place, tmp_path: Path) -> None:
    first = go(asked(here, tmp_path / "first"))
    loose = RECIPE.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0})
    ear = Ear()
    request = replace(asked(here, tmp_path / "out", loose, resume=True), journal=first.journal)
    result = go(request, ear)
    assert ear.events.count("step") == 0
    assert result.verdict is not None
    assert result.verdict.met
    assert sorted(os.listdir(tmp_path)) == ["first", "out"]
    # The first verdict is within these bounds, so a new run would have ended there.
    go(asked(here, tmp_path / "whole", loose))
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_the_same_budget_again_writes_the_same_again(here: Place, tmp_path: Path) -> None:
    first = go(asked(here, tmp_path / "first"))
    again = go(asked(here, tmp_path / "out", resume=True, journal=first.journal))
    assert again.verdicts == first.verdicts
    assert files(tmp_path / "out") == files(tmp_path / "first")


def weights(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(root).items() if name.endswith(".safetensors")}
