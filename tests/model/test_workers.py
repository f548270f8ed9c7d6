"""Images prepared by several threads are those that one prepares."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.model import features as model_features
from vkdsurgeon.model import workers
from vkdsurgeon.model.features import SampleSet, teacher_features
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.workers import in_order, thread_count


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 90), threads=st.integers(1, 5), wrong=st.sets(st.integers(0, 89), max_size=3))
def test_order_and_first_error_are_those_of_one_thread(count: int, threads: int, wrong: set[int]):
    def make(item: int) -> int:
        # The earlier, the later it is done.
        time.sleep((item % 5 == 0) * 1e-3)
        if item in wrong:
            raise UserError(f"number {item}")
        return item * item

    made: list[int] = []
    failed = None
    try:
        made.extend(in_order(make, range(count), threads))
    except UserError as error:
        failed = str(error)
    first = min((item for item in wrong if item < count), default=None)
    assert failed == (None if first is None else f"number {first}")
    assert made == [item * item for item in range(count if first is None else first)]


def test_cores_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert thread_count() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert thread_count() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert thread_count() == 1


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_a_set_is_the_same_whoever_prepares_it(
    llava: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, cache: int
):
    stack = load_visual_stack(llava, device="cpu")
    samples = samples_of(read_records(sets["retain"], role="retain"), role="retain")
    names: set[str] = set()
    prepare = stack.prepare
    stack.prepare = lambda *words: names.add(threading.current_thread().name) or prepare(*words)  # type: ignore
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(model_features, "thread_count", lambda threads=threads: threads)
        names.clear()
        chosen = SampleSet(stack, samples, cache)
        batches = [(part, batch.inputs["pixel_values"]) for part, batch in chosen.batches(range(len(samples)), 5)]
        found.append((batches, teacher_features(stack, chosen, ("projector",), 7, 1 << 30).all("projector")))
        assert any("vkdsurgeon-image" in name for name in names) == (threads > 1)
    for (part, pixels), (other_part, other_pixels) in zip(found[0][0], found[1][0], strict=True):
        assert part == other_part
        assert torch.equal(pixels, other_pixels)
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


def test_little_lies_ready_beyond_what_is_taken(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []
    taken = in_order(lambda item: made.append(item) or item, range(1000), 3)
    for _ in range(5):
        next(taken)
    time.sleep(0.05)
    assert len(made) <= 1 + 2 * workers._WINDOW
    taken.close()
