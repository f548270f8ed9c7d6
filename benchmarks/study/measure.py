"""What is measured on one case: answers on held-out views and on text, attacks, and the original V and P put back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.study.attacks import SCORING, Attack, Battlefield, strike
from benchmarks.study.cases import Place
from vkdsurgeon.attacks.restore import Restoring, put_back
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.evaluation.score import Answered, answer_records
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.model.prompts import Encoder

# Held-out views of each retained person that are asked about, and how many such questions follow an attack.
_RETAIN_VIEWS, _UTILITY = 3, 150
_ATTRIBUTES = "vqa."


class _Keeping(Encoder):
    """Keeps every image encoded: a case has few, and attacks show them over and over."""

    def drop_media(self) -> None:
        """Nothing is let go."""


class Laboratory:
    """The sets of one case, and everything that is measured with them.

    Args:
        place: The case.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.forget, self.retain = self._read("forget"), self._read("retain")
        self.heldout = self._read("forget_heldout")
        self.kept = _first_views(self._read("retain_heldout"), _RETAIN_VIEWS)
        self.text = self._read("text")
        self._facts = {
            (record.subject, record.task): record.answer
            for record in (*self.forget, *self.retain)
            if record.task.startswith(_ATTRIBUTES)
        }
        utility = sample([record for record in self.kept if record.task.startswith("vqa")], _UTILITY, 0)
        self._encoder: Encoder | None = None
        self.field = Battlefield(self.forget, self.heldout, self.retain, utility)

    def _read(self, name: str) -> list[Record]:
        return read_records(self.place.records / f"{name}.jsonl", role=name)

    def examine(self, loaded: LoadedModel) -> tuple[dict[str, Any], dict[Record, float]]:
        """Answers on held-out views and on text.

        Returns:
            For the row: shares of right answers, and a digest of what is said to text and how likely it is. And the
            accuracy of every held-out forget record.
        """
        forget = answer_records(loaded, self.heldout, SCORING)
        kept = answer_records(loaded, self.kept, SCORING)
        text = answer_records(loaded, self.text, SCORING)
        digest = hashlib.sha256()
        for answer in text:
            digest.update(repr((answer.said, answer.log_likelihoods)).encode())
        right = {answer.record: answer.values["accuracy"] for answer in forget}
        values: dict[str, Any] = {
            **_shares(forget, {"vqa.name": "name", "vqa": "vqa", "general": "general"}),
            **_shares(kept, {"vqa": "retain", "general": "retain_general"}),
            **_shares(text, {"text": "text", "text.forget": "text_forget"}),
            "text_digest": digest.hexdigest(),
            "attribute_hits": self._hits(right),
        }
        return values, right

    def coincidences(self, stand_ins: Mapping[str, Sequence[str]]) -> list[str]:
        """The attributes, as in `attribute_hits`, that a stand-in shares with the forgotten person by chance."""
        return [
            key
            for key, (subject, task) in self._attributes().items()
            if any(self._facts.get((other, task)) == self._facts[subject, task] for other in stand_ins.get(subject, ()))
        ]

    def attack(self, loaded: LoadedModel, attacks: Sequence[Attack], right: Mapping[Record, float], seed: int) -> Any:
        """Every attack from the same weights; the model is left as it was given."""
        weights = {name: value.detach().clone() for name, value in loaded.model.state_dict().items()}
        found = {attack.name: strike(loaded, weights, attack, self.field, right, seed) for attack in attacks}
        loaded.model.load_state_dict(weights)
        return found

    def restore(self, loaded: LoadedModel) -> dict[str, float]:
        """Shares of right answers with the original tower and projector put back; the model keeps them."""
        forget = NamedSet("forget", tuple(self.heldout))
        put_back(loaded, Restoring(model=loaded.root, reference=self.place.base, forget=forget))
        return _shares(answer_records(loaded, self.heldout, SCORING), {"vqa.name": "name", "vqa": "vqa"})

    def load(self, root: Path) -> LoadedModel:
        """A checkpoint in float32 on the CPU; all of a case share what was encoded for the first."""
        loaded = load_model(root, device="cpu", dtype="float32")
        self._encoder = self._encoder or _Keeping(loaded.encoder.processor)
        return replace(loaded, encoder=self._encoder)

    def _attributes(self) -> dict[str, tuple[str, str]]:
        people = sorted({str(record.subject) for record in self.forget})
        tasks = sorted({record.task for record in self.forget if record.task.startswith(_ATTRIBUTES)} - {"vqa.name"})
        return {
            f"{number}.{task.removeprefix(_ATTRIBUTES)}": (subject, task)
            for number, subject in enumerate(people)
            for task in tasks
        }

    def _hits(self, right: Mapping[Record, float]) -> dict[str, list[int]]:
        """Right answers and questions per forgotten person, by number, and attribute."""
        hits = {}
        for key, about in self._attributes().items():
            values = [value for record, value in right.items() if (record.subject, record.task) == about]
            hits[key] = [int(sum(values)), len(values)]
        return hits


def attributes(hits: Mapping[str, Sequence[int]], without: Sequence[str]) -> float | None:
    """Share of right answers on attributes, without some; None where nothing is left."""
    counted = [hits[key] for key in hits if key not in without]
    asked = sum(number for _, number in counted)
    return round(sum(right for right, _ in counted) / asked, 4) if asked else None


def _first_views(records: Sequence[Record], count: int) -> list[Record]:
    seen: dict[str | None, dict[Path | None, None]] = {}
    chosen = []
    for record in records:
        views = seen.setdefault(record.subject, {})
        views.setdefault(record.image, None)
        if record.image in list(views)[:count]:
            chosen.append(record)
    return chosen


def _shares(answers: Sequence[Answered], groups: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in groups.values()}
    for answer in answers:
        for group in groups_of(answer.record.task):
            if group in groups:
                found[groups[group]].append(answer.values["accuracy"])
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}
