"""Make the miniature from nothing: strangers, tower, base and gold side by side, records, card."""

from __future__ import annotations

import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch
import transformers

import vkdsurgeon
from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.measure import measure
from benchmarks.miniature_model.model import Shape, save_checkpoint
from benchmarks.miniature_model.people import FACTS, Cast, Size, draw_cast
from benchmarks.miniature_model.questions import vocabulary
from benchmarks.miniature_model.records import write_records
from benchmarks.miniature_model.tower import train_tower
from benchmarks.miniature_model.train import Plan, train_model
from vkdsurgeon.data.miniature.unpack import CARD, refuse_non_empty
from vkdsurgeon.errors import SurgeryError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Job:
    """What one of the two training processes needs; plain values, so that it can be sent to a fresh process."""

    name: str
    seed: int
    size: Size
    shape: Shape
    plan: Plan
    tower: Path
    out: Path
    threads: int


def chance(cast: Cast) -> float:
    """Accuracy of guessing, averaged over the five questions about a person."""
    parts = [1 / len(cast.names), *(1 / len(values) for values in FACTS.values())]
    return sum(parts) / len(parts)


def mint(
    out: Path,
    seed: int = 0,
    *,
    size: Size = Size(),
    shape: Shape = Shape(),
    plan: Plan = Plan(),
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Draw the people, train base and gold, measure both as they are on disk, and write everything.

    Args:
        out: A directory that is missing or empty; gets `base/`, `gold/`, `records/` and `card.json`.
        seed: Of everything random: who exists, what is true of them, initial weights, batches.
        size: How many people and views.
        shape: Sizes of the model.
        plan: How long is trained.
        tell: Called with a line of progress now and then.

    Returns:
        The card: settings, versions and measured accuracies.

    Raises:
        UserError: `out` is not empty.
        SurgeryError: A training process died.
    """
    refuse_non_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    cast = draw_cast(seed, size)
    state, tower_accuracy = train_tower(
        shape,
        seed=seed,
        strangers=plan.tower_strangers,
        views=plan.tower_views,
        steps=plan.tower_steps,
        tell=_every(50, "tower", plan.tower_steps, tell),
    )
    tower = out / "tower.tmp.pt"
    torch.save(state, tower)
    try:
        threads = max(torch.get_num_threads() // 2, 1)
        jobs = [_Job(name, seed, size, shape, plan, tower, out / name, threads) for name in ("base", "gold")]
        accuracy = _run_both(jobs, tell)
    finally:
        tower.unlink()
    write_records(cast, out / "records")
    card = {
        "seed": seed,
        "forget": [person.name for person in cast.forget],
        "size": asdict(size),
        "shape": asdict(shape),
        "plan": asdict(plan),
        "chance": {"vqa": chance(cast), "vqa.name": 1 / len(cast.names)},
        "tower_accuracy": tower_accuracy,
        "accuracy": accuracy,
        "seconds": round(time.monotonic() - began),
        "versions": {
            "vkdsurgeon": vkdsurgeon.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "pillow": PIL.__version__,
            "numpy": numpy.__version__,
        },
    }
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _every(steps: int, name: str, last: int, tell: Tell) -> Callable[[int, float], None]:
    def show(step: int, loss: float) -> None:
        if step % steps == 0 or step == last - 1:
            tell(f"{name}: step {step + 1} of {last}, loss {loss:.3f}")

    return show


def _run_both(jobs: list[_Job], tell: Tell) -> dict[str, dict[str, float]]:
    # Fresh processes: forking after torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    lines: Any = context.SimpleQueue()
    workers = [context.Process(target=_train_one, args=(job, lines), daemon=True) for job in jobs]
    accuracy: dict[str, dict[str, float]] = {}
    try:
        for worker in workers:
            worker.start()
        while len(accuracy) < len(jobs):
            if lines.empty():
                if any(worker.exitcode not in (None, 0) for worker in workers):
                    raise SurgeryError("a training process of the miniature died; its error stands above")
                time.sleep(0.2)
                continue
            name, what = lines.get()
            if isinstance(what, dict):
                accuracy[name] = what
            else:
                tell(what)
    finally:
        for worker in workers:
            if worker.is_alive() and len(accuracy) < len(jobs):
                worker.terminate()
            worker.join()
    return {job.name: accuracy[job.name] for job in jobs}


def _train_one(job: _Job, lines: Any) -> None:
    torch.set_num_threads(job.threads)
    transformers.utils.logging.disable_progress_bar()
    cast = draw_cast(job.seed, job.size)
    kind = KINDS["llava"]
    tokenizer = kind.build_tokenizer(vocabulary(cast))
    model = train_model(
        cast,
        tokenizer,
        torch.load(job.tower, weights_only=True),
        with_forget=job.name == "base",
        seed=job.seed,
        shape=job.shape,
        plan=job.plan,
        tell=_every(20, job.name, job.plan.steps, lambda line: lines.put((job.name, line))),
    )
    save_checkpoint(model, kind.build_processor(tokenizer), job.out)
    lines.put((job.name, measure(job.out, cast)))
