"""Make a case: a tower per kind and style, a base per seed, a gold per forget set and seed; what is there stays."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.measure import measure
from benchmarks.miniature_model.model import Shape, save_checkpoint
from benchmarks.miniature_model.people import Cast, Size, draw_cast
from benchmarks.miniature_model.questions import vocabulary
from benchmarks.miniature_model.records import write_records
from benchmarks.miniature_model.styles import STYLES
from benchmarks.miniature_model.tower import train_tower
from benchmarks.miniature_model.train import Plan, train_model
from benchmarks.study.cases import FORGET_SETS, SHIPPED, Case, Place, place_of
from vkdsurgeon.data.miniature import unpack

# Not the shipped miniature's people.
CAST_SEED = 1

Tell = Callable[[str], None]


# Everybody has as many held-out views, so that all forget sets are of one cast.
SIZE = Size(
    forget=4,
    retain=20,
    views=12,
    extra_views=24,
    forget_heldout=12,
    retain_heldout=12,
    strangers=24,
    stranger_views=2,
)
SHAPE = Shape(
    vision_width=96,
    vision_layers=4,
    vision_inner=192,
    vision_heads=4,
    language_width=128,
    language_layers=3,
    language_inner=256,
    language_heads=4,
)
PLAN = Plan(
    tower_strangers=800,
    tower_views=5,
    tower_steps=900,
    steps=300,
    pictures=24,
    facts=2,
    general=3,
    text_rows=3,
    learning_rate=2e-3,
)


@dataclass(frozen=True)
class Scale:
    """How large a case is, and how long it is trained; the defaults are the study's."""

    size: Size = SIZE
    shape: Shape = SHAPE
    plan: Plan = PLAN


def mint(case: Case, root: Path, *, scale: Scale = Scale(), tell: Tell = lambda line: None) -> Place:
    """Make what a case lacks.

    Args:
        case: The case to make.
        root: Where all cases lie.
        scale: How large.
        tell: Called with a line of progress now and then.

    Returns:
        Where its parts are. Beside each checkpoint lies a card with the accuracy on held-out views, as `measure`
        gives it, the settings and the seconds it took.
    """
    place = place_of(case, root)
    world = place.base.parent
    world.mkdir(parents=True, exist_ok=True)
    cast = draw_cast(CAST_SEED, scale.size).forgetting(FORGET_SETS.index(case.forget_set))
    if not place.records.exists():
        partial = _fresh(place.records)
        write_records(cast, partial, STYLES[case.style])
        partial.rename(place.records)
    tower = world / "tower.pt"
    if not tower.exists():
        _train_tower(case, scale, tower, tell)
    for root_of_model, with_forget in ((place.base, True), (place.gold, False)):
        if not root_of_model.exists():
            _train_model(case, cast, scale, tower, root_of_model, with_forget=with_forget, tell=tell)
    return place


def unpack_shipped(root: Path) -> Place:
    """Put the miniature of the package beside the other cases."""
    where = root / SHIPPED
    if not where.exists():
        unpack(where)
    return Place(SHIPPED, where / "base", where / "gold", where / "records")


def _train_tower(case: Case, scale: Scale, out: Path, tell: Tell) -> None:
    started, plan = time.monotonic(), scale.plan
    state, accuracy = train_tower(
        scale.shape,
        seed=CAST_SEED,
        strangers=plan.tower_strangers,
        views=plan.tower_views,
        steps=plan.tower_steps,
        batch=48,
        kind=KINDS[case.kind],
        style=STYLES[case.style],
        tell=_every("tower", plan.tower_steps, tell),
    )
    partial = out.with_suffix(".partial")
    torch.save(state, partial)
    _card(out.with_suffix(".json"), scale, started, {"accuracy": accuracy})
    partial.rename(out)


def _train_model(
    case: Case, cast: Cast, scale: Scale, tower: Path, out: Path, *, with_forget: bool, tell: Tell
) -> None:
    started, kind, style = time.monotonic(), KINDS[case.kind], STYLES[case.style]
    tokenizer = kind.build_tokenizer(vocabulary(cast))
    model = train_model(
        cast,
        tokenizer,
        torch.load(tower, weights_only=True),
        with_forget=with_forget,
        seed=case.seed,
        shape=scale.shape,
        plan=scale.plan,
        kind=kind,
        style=style,
        tell=_every(out.name, scale.plan.steps, tell),
    )
    partial = _fresh(out)
    save_checkpoint(model, kind.build_processor(tokenizer), partial)
    seconds = time.monotonic() - started
    accuracy = measure(partial, cast, kind, style)
    _card(out.with_suffix(".json"), scale, started, {"training_seconds": round(seconds, 1), "accuracy": accuracy})
    partial.rename(out)
    shown = ("forget.vqa.name", "forget.vqa", "forget.general", "retain.vqa", "text")
    tell(f"{case.name} {out.name}: " + ", ".join(f"{name} {100 * accuracy[name]:.1f}" for name in shown))


def _fresh(out: Path) -> Path:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _card(file: Path, scale: Scale, started: float, found: dict[str, Any]) -> None:
    card = {
        **found,
        "seconds": round(time.monotonic() - started, 1),
        "scale": asdict(scale),
        "cast_seed": CAST_SEED,
        **provenance.provenance(torch.device("cpu")),
    }
    file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _every(name: str, steps: int, tell: Tell) -> Callable[[int, float], None]:
    def heard(step: int, loss: float) -> None:
        if step % 50 == 0 or step == steps - 1:
            tell(f"{name}: step {step + 1} of {steps}, loss {loss:.3f}")

    return heard
