"""What the student shows on images that it was not trained on: whose it reads as, how far it went, what it kept.

Subjects are read by nearest centroid in the teacher's space (`identity_classifier`), so nothing of this needs labels
beyond who is on which image, nor the language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.features import features_of
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.objective import DistillationTerms
from vkdsurgeon.vision_pass.stop_rule import Seen, Verdict, judge
from vkdsurgeon.vision_pass.target_readings import read_all
from vkdsurgeon.vision_pass.trainer import DistillationTerm

# Share of the way that images which are not trained on are to go.
_AIM = 1.0
# Beyond this, going farther no longer makes up for views that do not follow.
_FARTHEST = 2.0

# Shares of the steps after which the way is measured and made longer.
_MEASURED_AT = (0.6, 0.8)


def stretched_at(steps: int) -> tuple[int, ...]:
    """Steps of a schedule after which `Validation.stretch` is due."""
    return tuple(max(round(share * steps), 1) for share in _MEASURED_AT)


@dataclass
class Validation:
    """Looks at the student now and then.

    Args:
        stack: The student; at the teacher's weights when this is made.
        terms: What it is taught.
        recipe: The settings.
    """

    stack: VisualStack
    terms: DistillationTerms
    recipe: Recipe
    _originals: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for term in self.terms.both:
            self._originals[term.name] = {
                layer: self._read(term, layer, [self._teacher(term, layer, [index])[0] for index in term.held_out])
                for layer in self.recipe.layers
            }

    def judge(self) -> Verdict:
        """The stop rule's verdict on the student as it stands."""
        forget, retain = self.terms.both
        seen = self._features(forget, forget.held_out)
        own = base = 0
        for layer in self.recipe.layers:
            reader = self.terms.spaces[layer].reader
            whose = reader.indices([forget.samples.subjects[index] for index in forget.held_out])
            before = self._originals["forget"][layer] == whose
            after = self._read(forget, layer, seen[layer]) == whose
            # Where several layers feed the language model, the one that tells most counts.
            if (count := int((before & after).sum())) >= own:
                own, base = count, int(before.sum())
        kept = self._features(retain, retain.held_out)
        readable, agree = min(
            (self._agreement(layer, kept[layer]) for layer in self.recipe.layers),
            key=lambda counts: counts[1] - counts[0],
        )
        reach = self._reach(seen)
        found = Seen(
            forget_ratio=self._ratio(seen),
            retain_drift=self._drift(kept, retain),
            pictures=(len(forget.held_out), len(retain.held_out)),
            originals=len(reach),
            held_out=(forget.apart, len(retain.unseen) == len(retain.held_out)),
            own=own,
            base_own=base,
            subjects=len(self.terms.spaces[self._last].reader.subjects),
            agree=agree,
            readable=readable,
            reach=mean(reach),
            stretch=self.terms.stretched.stretch,
        )
        return judge(self.recipe, found)

    def stretch(self) -> None:
        """Make the way as long as it takes for images that are not trained on to go as far as they should.

        Images differ and few are held out, so their mean reach counts as one standard error larger than it is: the
        shortest way that they still are in keeping with (the one-standard-error rule of Breiman, Friedman, Olshen and
        Stone, Classification and Regression Trees, 1984).
        """
        targets = self.terms.stretched
        reach = self._reach(self._features(self.terms.forget, self.terms.forget.held_out))
        error = stdev(reach) / len(reach) ** 0.5 if len(reach) > 1 else 0.0
        targets.stretch = min(max(targets.stretch * _AIM / max(mean(reach) + error, 0.1), 1.0), _FARTHEST)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {"stretch": self.terms.stretched.stretch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.terms.stretched.stretch = state["stretch"]

    @property
    def _last(self) -> str:
        return next(reversed(self.recipe.layers))

    def _teacher(self, term: DistillationTerm, layer: str, indices: Sequence[int]) -> Tensor:
        store = self.terms.stretched.teacher if term.name == "forget" else term.targets
        return store.get(layer, indices, self.stack.device)

    def _features(self, term: DistillationTerm, indices: Sequence[int]) -> dict[str, list[Tensor]]:
        found: dict[str, dict[int, Tensor]] = {layer: {} for layer in self.recipe.layers}
        passed = features_of(self.stack, term.samples, indices, tuple(self.recipe.layers), self.recipe.micro_batch)
        for index, layer, value in passed:
            found[layer][index] = value.to(self.stack.device)
        return {layer: [rows[index] for index in indices] for layer, rows in found.items()}

    def _read(self, term: DistillationTerm, layer: str, features: Sequence[Tensor]) -> Tensor:
        """Whose each of a term's held-out images reads as."""
        space = self.terms.spaces[layer]
        images = [(term.name, index) for index in term.held_out]
        return read_all(space.reader, [space.pooled(*each) for each in zip(images, features, strict=True)])

    def _moves(self, layer: str, values: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Of every held-out forget image its index, how far it went and how far its plain target lies, [N, D] each."""
        forget, targets = self.terms.forget, self.terms.stretched.targets
        for index, value in zip(forget.held_out, values, strict=True):
            origin = self._teacher(forget, layer, [index])[0].float()
            yield index, value.float() - origin, targets.get(layer, [index], self.stack.device)[0].float() - origin

    def _ratio(self, seen: Mapping[str, Sequence[Tensor]]) -> float:
        """Squared distance left to the plain targets over that at first, over images; mean over layers."""
        ratios = []
        for layer, values in seen.items():
            left = whole = 0.0
            for _, went, move in self._moves(layer, values):
                left += float((went - move).square().sum())
                whole += float(move.square().sum())
            ratios.append(left / max(whole, 1e-12))
        return mean(ratios)

    def _reach(self, seen: Mapping[str, Sequence[Tensor]]) -> list[float]:
        """Share of the way that each held-out forget image went in what identities are read from.

        Means over layers and over the copies of an image, which are no evidence apart from it.
        """
        forget = self.terms.forget
        shares: dict[str, list[float]] = {}
        for layer, values in seen.items():
            space = self.terms.spaces[layer]
            for index, *both in self._moves(layer, values):
                went, move = (space.pooled(("forget", index), each) for each in both)
                share = float((went * move).sum() / move.square().sum().clamp_min(1e-12))
                shares.setdefault(forget.samples.samples[index].digest, []).append(share)
        return [mean(each) for each in shares.values()]

    def _agreement(self, layer: str, features: Sequence[Tensor]) -> tuple[int, int]:
        """Retain images that the teacher reads as their subject, and how many of these the student does."""
        retain = self.terms.retain
        whose = self.terms.spaces[layer].reader.indices([retain.samples.subjects[index] for index in retain.held_out])
        before = self._originals["retain"][layer] == whose
        return int(before.sum()), int((before & (self._read(retain, layer, features) == whose)).sum())

    def _drift(self, kept: dict[str, list[Tensor]], retain: DistillationTerm) -> float:
        # Copies of trained images stay where they are for longer than others do.
        looked_at = set(retain.unseen or retain.held_out)
        shares = [
            (value.float() - self._teacher(retain, layer, [index])[0].float()).square().mean() / retain.spreads[layer]
            for layer, values in kept.items()
            for index, value in zip(retain.held_out, values, strict=True)
            if index in looked_at
        ]
        return float(torch.stack(shares).mean())
