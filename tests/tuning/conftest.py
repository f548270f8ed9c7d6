"""One small case for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.vision_pass.job import Job

QUICK = Recipe(
    steps=6,
    forget_batch=8,
    retain_batch=8,
    forget_reading=1.0,
    retain_reading=1.0,
    retain_drift=5.0,
    step_size=1.0,
    copies=0,
    tamper_weight=0.0,
)


def samples(sets: dict[str, Path], role: str) -> list[Sample]:
    return samples_of(read_records(sets[role], role=role), role=role)


@pytest.fixture
def job(llava: Path, sets: dict[str, Path]) -> Job:
    return Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], QUICK)
