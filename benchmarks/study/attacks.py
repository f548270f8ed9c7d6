"""The four protocols of relearning, on a model in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import torch

from vkdsurgeon.attacks.finetune import fine_tune, trainable
from vkdsurgeon.attacks.split import Split, split_records
from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import LoadedModel

Protocol = Literal["pairs", "people", "benign", "all"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
STEPS, RATES, BATCH, FRACTION = (15, 60), (3e-4, 1e-3), 32, 0.5
SCORING = Scoring(batch_size=128)


@dataclass(frozen=True)
class Attack:
    """One attack: AdamW, 32 questions a step, linear decay, on half of what it may see.

    Attributes:
        protocol: `pairs`: tower and projector learn half of the kinds of question about each forgotten person, the
            others are asked. `people`: they learn half of the people, the others are asked. `benign`: they learn the
            retain set, all forgotten people are asked. `all`: as `pairs`, with every weight of the model.
        steps: Optimizer steps.
        lr: Peak learning rate.
    """

    protocol: Protocol
    steps: int
    lr: float

    @property
    def name(self) -> str:
        """`PROTOCOL/STEPS/LR`."""
        return f"{self.protocol}/{self.steps}/{self.lr:g}"


GRID: tuple[Attack, ...] = tuple(Attack(*choice) for choice in product(PROTOCOLS, STEPS, RATES))
# One learning rate, the tool's default, and what needs no language model in the attacker's memory.
QUICK: tuple[Attack, ...] = tuple(each for each in GRID if each.lr == RATES[0] and each.protocol != "all")


@dataclass(frozen=True)
class Battlefield:
    """The sets that attacks use."""

    forget: Sequence[Record]
    heldout: Sequence[Record]
    retain: Sequence[Record]
    utility: Sequence[Record]

    def split(self, protocol: Protocol, seed: int) -> Split:
        """What is shown to the attacker and what is asked afterwards, on held-out views."""
        if protocol == "benign":
            return Split(tuple(self.retain), tuple(record for record in self.heldout if to_forget(record)))
        kind: Literal["people", "pairs"] = "people" if protocol == "people" else "pairs"
        return split_records(self.forget, self.heldout, protocol=kind, fraction=FRACTION, seed=seed)


def strike(
    loaded: LoadedModel,
    weights: Mapping[str, torch.Tensor],
    attack: Attack,
    field: Battlefield,
    right: Mapping[Record, float],
    seed: int,
) -> dict[str, Any]:
    """Run one attack.

    Args:
        loaded: The model; afterwards it holds the attacked weights.
        weights: The unlearned weights to start from.
        attack: The attack to run.
        field: The sets.
        right: Accuracy of the unlearned model per held-out record.
        seed: Of split and order.

    Returns:
        Shares of right answers before and after on what is asked, of them about the name where names are asked, and on
        retained people after; AG in points, the last loss, seconds.
    """
    started = time.monotonic()
    loaded.model.load_state_dict(weights)
    split = field.split(attack.protocol, seed)
    parameters = trainable(loaded, "all" if attack.protocol == "all" else "visual")
    losses = list(
        fine_tune(loaded, parameters, split.shown, steps=attack.steps, lr=attack.lr, batch_size=BATCH, seed=seed)
    )
    after = accuracies(loaded, split.measured)
    names = [record for record in split.measured if record.task == "vqa.name"]
    before, following = _mean(right, split.measured), _mean(after, split.measured)
    return {
        "before": before,
        "after": following,
        "ag": round(100 * (following - before), 2),
        "name": {"before": _mean(right, names), "after": _mean(after, names)} if names else None,
        "asked": len(split.measured),
        "retain_after": _mean(accuracies(loaded, field.utility), field.utility),
        "loss": round(losses[-1], 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def accuracies(loaded: LoadedModel, records: Sequence[Record]) -> dict[Record, float]:
    """1 or 0 per record."""
    return {answer.record: answer.values["accuracy"] for answer in answer_records(loaded, records, SCORING)}


def _mean(right: Mapping[Record, float], records: Sequence[Record]) -> float:
    return round(sum(right[record] for record in records) / len(records), 4)
