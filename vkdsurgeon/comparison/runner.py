"""Fills cells: unlearn, measure, attack."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.comparison.cache import cached
from vkdsurgeon.comparison.datasets import Case
from vkdsurgeon.comparison.methods import ComparedMethod
from vkdsurgeon.comparison.relearning import attack
from vkdsurgeon.comparison.settings import effective
from vkdsurgeon.comparison.unlearn import forget_model, unlearn
from vkdsurgeon.evaluation.evaluate import Evaluation, evaluate
from vkdsurgeon.results.comparison import Cell
from vkdsurgeon.results.comparison_columns import CPU_SECONDS, FLOPS, GOLD, MEMORY, SECONDS, chances, headline
from vkdsurgeon.training.events import Listener


def reference_run(case: Case, name: str, root: Path, seed: int, listener: Listener) -> Cell:
    """The cell of base or gold."""
    digest = weights_digest_of(root)

    def fill(key: str) -> Cell:
        # What the base model knows cannot come back.
        return _measured(
            case, root, seed, listener, attacked=name == GOLD,
            key=key, name=name, recipe={}, steps=0, elements_changed=0, weights_digest=digest, met=None,
        )  # fmt: skip

    return cached(case, name, seed, {"weights": digest}, fill, listener)


def method_run(case: Case, each: ComparedMethod, recipe: dict[str, Any], seed: int, listener: Listener) -> Cell:
    """The cell of a method."""
    asked = case.asked
    known = {
        "weights": weights_digest_of(asked.model),
        "method": each.method,
        "recipe": recipe,
        "effective": effective(each, recipe),
        "reads_text": each.reads_text and case.given_text is not None,
        "dtype": asked.dtype,
    }

    def fill(key: str) -> Cell:
        out = asked.out / "models" / f"{each.name}-{seed}-{key[:16]}"
        cost = unlearn(case, each, recipe, seed, out, listener)
        cell = _measured(
            case, out, seed, listener, attacked=True, key=key, name=each.name, recipe=recipe,
            **{name: cost[name] for name in ("steps", "elements_changed", "weights_digest", "met")},
        )  # fmt: skip
        cost = {
            SECONDS: cost["seconds"],
            CPU_SECONDS: cost["cpu_seconds"],
            MEMORY: cost["peak_memory_mib"],
            FLOPS: None if cost["flops"] is None else cost["flops"] / 1e12,
        }
        if not asked.keep_models:
            forget_model(out)
        return cell.model_copy(update={"values": cell.values | cost})

    return cached(case, each.name, seed, known, fill, listener)


def _measured(case: Case, root: Path, seed: int, listener: Listener, *, attacked: bool, **facts: Any) -> Cell:
    """Evaluate a model, and attack it."""
    asked = case.asked
    found = evaluate(
        Evaluation(
            model=root, sets=case.measured, device=asked.device, device_map=asked.device_map, limit=asked.limit, seed=0
        ),
        listener,
    )
    gc.collect()
    gains, diverged = attack(case, root, seed, listener) if attacked else ({}, [])
    return Cell(
        seed=seed,
        values=headline(found.metrics) | gains,
        chance=chances(found.metrics),
        diverged=diverged,
        **facts,
    )
