"""The settings of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vkdsurgeon.comparison.methods import ComparedMethod
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.relearn import RelearnScope
from vkdsurgeon.config.shard import Shard
from vkdsurgeon.evaluation.gates import Gate
from vkdsurgeon.model.device_map import DeviceMap

ComparedProtocol: TypeAlias = Literal["people", "pairs"]


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison.

    Attributes:
        model: The checkpoint that is to forget.
        methods: What is compared, in the order of the table.
        forget: The forget set's file.
        retain: The retain set's file.
        out: Directory for results and finished cells.
        recipe: Settings for all methods.
        gold: A model that never saw the forget set.
        heldout: Other views of the forget set's subjects, to measure on.
        retain_heldout: Other views of the retain set's subjects, to measure on.
        text: Questions without images; half is measured, the other half given to methods that have a use for text.
        seeds: Every method runs once with each.
        protocols: Relearning protocols behind AG.
        scopes: What the attacker trains; every protocol is run with each.
        attack_steps: Steps of the attack.
        limit: At most so many questions per measured set.
        gates: Bounds on `NAME.METRIC`; they do not stop anything here.
        device: The device to compute on.
        device_map: Where the whole model may lie instead, where it is loaded.
        dtype: Precision while unlearning: auto, float32, bfloat16 or mixed (float32 with methods other than VKD).
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, if the wrong ones are found.
        keep_models: Leave the patched checkpoints in `out`.
        shard: Fill its share of the cells alone, and make no table; None for all.
    """

    model: Path
    methods: Sequence[ComparedMethod]
    forget: Path
    retain: Path
    out: Path
    recipe: Recipe
    gold: Path | None = None
    heldout: Path | None = None
    retain_heldout: Path | None = None
    text: Path | None = None
    seeds: Sequence[int] = (0,)
    protocols: Sequence[ComparedProtocol] = ("people", "pairs")
    scopes: Sequence[RelearnScope] = ("visual", "all")
    attack_steps: int = 15
    limit: int | None = 800
    gates: Sequence[Gate] = ()
    device: str = "auto"
    device_map: DeviceMap | None = None
    dtype: str = "auto"
    tower: str | None = None
    projector: Sequence[str] | None = None
    keep_models: bool = False
    shard: Shard | None = None
