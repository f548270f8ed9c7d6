"""What a run says of itself, to somebody who reads it for the first time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vkdsurgeon.pipeline.words import describe_targets, describe_verdict
from vkdsurgeon.vision_pass.stop_rule import Verdict
from vkdsurgeon.vision_pass.target_readings import TargetReading


def test_fewer_images_than_were_given_are_explained() -> None:
    told = describe_targets(TargetReading(22, 0, 21, 64, 0, at="token positions"))
    assert told == (
        "0 of the 22 forget images that are not held out read as their own subject (21 did before, chance is 1 in 64); "
        "identities were moved at token positions"
    )


VERDICT = Verdict(
    forget_ratio=0.1, retain_drift=0.01, forgotten=True, kept=False, met=False, pictures=(20, 257),
    originals=20, held_out=(True, False), own=3, base_own=19, own_allowed=5, subjects=64, readable=255,
    agree=217, agree_needed=246, reach=0.9,
)  # fmt: skip


def test_a_verdict_that_was_met_says_what_so_few_images_leave_open() -> None:
    met = replace(VERDICT, met=True, own=0, originals=4)
    assert "with 4 different images, up to 53% of others may do so unnoticed" in describe_verdict(met)
    assert "unnoticed" not in describe_verdict(replace(met, met=False))
    assert "unnoticed" not in describe_verdict(replace(met, held_out=(False, True)))
    # Three of twenty looks at four images may all be looks at one.
    assert replace(met, own=3).not_excluded == pytest.approx(0.751, abs=1e-3)
    assert replace(met, own=20).not_excluded == 1.0


def test_a_verdict_says_what_would_have_sufficed() -> None:
    told = describe_verdict(VERDICT)
    assert "3 of 20 held-out forget images still read as their own subject (19 did before, 5 may by chance)" in told
    assert (
        "of 257 held-out or altered retain images 255 could be read before, and 217 of these still read alike" in told
    )
    assert "at least 246 must" in told
