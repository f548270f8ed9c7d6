"""One small case for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.pictures import Picture, pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.vision_pass.run import Job

QUICK = Recipe(
    steps=6,
    forget_batch=8,
    retain_batch=8,
    forget_reading=1.0,
    retain_reading=1.0,
    retain_drift=5.0,
    step_size=1.0,
    copies=0,
)


def pictures(sets: dict[str, Path], role: str) -> list[Picture]:
    return pictures_of(read_records(sets[role], role=role), role=role)


@pytest.fixture
def job(llava: Path, sets: dict[str, Path]) -> Job:
    return Job(llava, pictures(sets, "forget"), pictures(sets, "retain"), [], QUICK)
