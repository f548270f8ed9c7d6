"""The quantisation attack: quantise the weights in memory, and ask again.

An update smaller than a quantisation step vanishes in it, and with it what the update did: a study of text models found
83 % of forgotten knowledge back after 4 bits, 21 % before (arXiv 2410.16454). Nobody has to mean harm: releases are
quantised anyway.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vkdsurgeon.attacks.number_formats import FORMATS, Format, round_trip, same_code
from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.variation import Variation, measure_variations
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import judge_metrics
from vkdsurgeon.evaluation.models import Role
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.results.attacks import QuantizeResult, QuantizeSettings, RoundTrip, WeightScope
from vkdsurgeon.training.events import Listener, unheard
from vkdsurgeon.training.kept_weights import kept_weights

# Below this share the round trip says little about a quantised release.
_MOST_OF_IT = 0.5


@dataclass(frozen=True, kw_only=True)
class Quantizing(Target):
    """The settings of the quantisation attack.

    Attributes:
        formats: Names of number formats, see `round_trip.FORMATS`.
        scope: `visual` is tower and projector, `all` the language model too.
        group_size: Weights that share a scale; 0 for a whole output channel, None for the format's own.
    """

    formats: Sequence[str] = ("int8", "int4")
    scope: WeightScope = "visual"
    group_size: int | None = None


class RoundedWeights(Variation):
    """A model whose weights have been through one format; its own come back afterwards.

    Attributes:
        weights: How many weights the round trip quantised in the model that it was applied to first.
        scope_weights: How many weights the scope has.
        relative_error: Squared change over squared weights of that model.
    """

    def __init__(self, form: Format, attack: Quantizing) -> None:
        super().__init__(form.name)
        self.form = form
        self._attack = attack
        self.weights = self.scope_weights = 0
        self.relative_error = 0.0

    def check(self, loaded: LoadedModel) -> None:
        """As in `Variation`."""
        chosen = quantizable(loaded.model, self._names(loaded))
        if not chosen:
            raise UserError("there is nothing to quantise in this scope", where=loaded.root, value=self._attack.scope)
        check_held(loaded.model, chosen, "this attack")

    def _names(self, loaded: LoadedModel) -> set[str] | None:
        attack = self._attack
        if attack.scope == "all":
            return None
        return set(locate_visual(loaded.model, attack.tower, attack.projector).visual_parameters)

    @contextmanager
    def applied(self, loaded: LoadedModel, role: Role) -> Iterator[None]:
        """As in `Variation`."""
        names = self._names(loaded)
        chosen = quantizable(loaded.model, names)
        with kept_weights(chosen.values()):
            with torch.no_grad():
                changed, power = 0.0, 0.0
                for value in chosen.values():
                    rounded = round_trip(value, self.form)
                    changed += float((rounded.float() - value.float()).square().sum())
                    power += float(value.float().square().sum())
                    value.copy_(rounded)
            if role == "model":
                self.weights = sum(value.numel() for value in chosen.values())
                every = loaded.model.named_parameters()
                self.scope_weights = sum(value.numel() for name, value in every if names is None or name in names)
                self.relative_error = changed / power if power else 0.0
            yield


def quantize(attack: Quantizing, listener: Listener = unheard) -> QuantizeResult:
    """Measure a model before and after round trips of its weights, and its base and gold alike.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written, the models on disk stay as they are.

    Raises:
        UserError: Formats, sets, gates or models are wrong; all but the models is checked before one is loaded.
    """
    started = time.perf_counter()
    variations = [RoundedWeights(form, attack) for form in formats_of(attack.formats, attack.group_size)]
    measured = measure_variations(attack, "quantize", variations, listener)
    gone = vanished(attack, [variation.form for variation in variations])
    share = min(variation.weights / variation.scope_weights for variation in variations)
    warnings = list(measured.warnings)
    if share < _MOST_OF_IT:
        warnings.append(
            f"only {share:.0%} of the scope's weights lie in linear layers and convolutions; the rest stayed as it was"
        )
    return QuantizeResult(
        models=measured.models,
        sets=measured.sets,
        settings=QuantizeSettings(
            **attack.asking(measured.device),
            scope=attack.scope,
            formats=[
                RoundTrip(
                    format=variation.form.name,
                    group_size=variation.form.group_size,
                    weights=variation.weights,
                    scope_weights=variation.scope_weights,
                    relative_error=variation.relative_error,
                    vanished=lost,
                )
                for variation, lost in zip(variations, gone, strict=True)
            ],
        ),
        metrics=measured.metrics,
        gates=judge_metrics(attack.gates, measured.metrics),
        warnings=warnings,
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def formats_of(names: Sequence[str], group_size: int | None) -> list[Format]:
    """Parse the names of number formats.

    Raises:
        UserError: None, one twice, or one that is not known.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names or len(set(names)) != len(names):
        raise UserError(
            "not a list of number formats",
            where="`formats`",
            value=unknown[0] if unknown else list(names),
            expected=f"each of {', '.join(FORMATS)} at most once",
        )
    forms = [FORMATS[name] for name in names]
    return forms if group_size is None else [replace(form, group_size=group_size) for form in forms]


def quantizable(model: nn.Module, names: Collection[str] | None) -> dict[str, torch.Tensor]:
    """The weights that quantisers commonly touch: of linear layers and convolutions.

    Norms, biases, embeddings and the output head (also where it is tied to the embeddings) are left out.

    Args:
        model: Any transformers model.
        names: Parameters that may be touched; None for all.
    """
    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if find_head else None
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if not isinstance(module, kinds) or module is head or (names is not None and name not in names):
            continue
        # What is quantised already holds codes instead of numbers.
        if module.weight.is_floating_point():
            found[name] = module.weight
    return found


def vanished(attack: Quantizing, forms: Sequence[Format]) -> list[float | None]:
    """Per format, the share of the visual weights changed by unlearning that rounding makes equal to the base again.

    Returns:
        One share per format; None without a reference, where nothing differs, or where the two are built otherwise.
    """
    if attack.reference is None:
        return [None] * len(forms)
    mine, theirs = (_visual_weights(attack, root) for root in (attack.model, attack.reference))
    if {name: value.shape for name, value in mine.items()} != {name: value.shape for name, value in theirs.items()}:
        return [None] * len(forms)
    differing = {name: value != theirs[name] for name, value in mine.items()}
    total = sum(int(where.sum()) for where in differing.values())
    if not total:
        return [None] * len(forms)
    return [
        sum(int((same_code(value, theirs[name], form) & differing[name]).sum()) for name, value in mine.items()) / total
        for form in forms
    ]


def _visual_weights(attack: Quantizing, root: Path) -> dict[str, torch.Tensor]:
    stack: VisualStack = load_visual_stack(root, device="cpu", tower=attack.tower, projector=attack.projector)
    return quantizable(stack.model, set(stack.split.placement.visual_parameters))
