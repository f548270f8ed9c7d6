"""Fixtures that several rooms share: a tiny checkpoint, and drawn images of a few subjects."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tiny tensors: a second thread only waits, and tests run side by side. Read when torch is imported, and by the
# processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

# Without a GPU the Triton kernels run in Triton's interpreter. Triton looks when a kernel is decorated, its own
# library's among them, so this stands before the first import of it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts background jobs with interrupts ignored, and their children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage, of which there are many."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At its end the interpreter clears away what it can reach, and complains of the rest."""
    gc.unfreeze()


def draw_subject(subject: int, view: int, side: int = 32) -> Image.Image:
    """An image whose colours belong to the subject and whose texture to the view."""
    identity = np.random.default_rng(subject)
    base = identity.integers(30, 226, size=(4, 4, 3))
    noise = np.random.default_rng((subject + 1) * 1000 + view).integers(-25, 26, size=(side, side, 3))
    pixels = np.kron(base, np.ones((side // 4, side // 4, 1), dtype=np.int64)) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_set(folder: Path, name: str, subjects: range, views: int = 4) -> Path:
    """A JSONL set of drawn images, one row per image."""
    (folder / name).mkdir(parents=True)
    rows = []
    for subject in subjects:
        for view in range(views):
            path = folder / name / f"{subject}-{view}.png"
            draw_subject(subject, view).save(path)
            rows.append({"image": f"{name}/{path.name}", "subject": f"person {subject}"})
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Forget, retain and generic sets of drawn subjects."""
    folder = tmp_path_factory.mktemp("sets")
    return {
        "forget": write_set(folder, "forget", range(2), views=8),
        "retain": write_set(folder, "retain", range(10, 16), views=8),
        "generic": write_set(folder, "generic", range(20, 26), views=2),
    }


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaVA in bfloat16, two shards. Read-only for tests."""
    from tests.families import build_checkpoint

    return build_checkpoint("llava", tmp_path_factory.mktemp("models") / "llava", dtype=torch.bfloat16, shards=2)


@pytest.fixture
def own_words() -> Iterator[None]:
    """Takes back what a test registered: other tests of the process know the words that ship and no other."""
    from vkdsurgeon.config import registered
    from vkdsurgeon.training.saliency import CUSTOM_RULES
    from vkdsurgeon.vision_pass.targets import FORGET_TARGETS

    known = {key: set(words) for key, words in registered._WORDS.items()}
    targets, rules = dict(FORGET_TARGETS), dict(CUSTOM_RULES)
    yield
    for key, words in known.items():
        registered._WORDS[key].intersection_update(words)
    for now, before in ((FORGET_TARGETS, targets), (CUSTOM_RULES, rules)):
        now.clear()
        now.update(before)
