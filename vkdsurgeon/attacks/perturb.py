"""The perturbation attack: change the images, a little or by one trained pattern, and ask again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from vkdsurgeon.attacks.image_transforms import Perturbation
from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.universal import Universal, UniversalPerturbation
from vkdsurgeon.attacks.variation import Variation, measure_variations
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import to_forget
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import judge_metrics
from vkdsurgeon.evaluation.models import Role
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.results.attacks import PerturbResult, PerturbSettings, UniversalSettings
from vkdsurgeon.training.events import Listener, unheard


@dataclass(frozen=True, kw_only=True)
class Perturbing(Target):
    """The settings of the perturbation attack.

    Attributes:
        heldout: Other views of the same subjects to measure on; without it the forget set itself.
        perturbations: What is done to the images.
        universal: Recipe of a universal perturbation trained on the forget set; None for none.
    """

    heldout: NamedSet | None = None
    perturbations: Sequence[Perturbation] = ()
    universal: Universal | None = None


class PerturbedImages(Variation):
    """Every image changed before the processor sees it."""

    def __init__(self, perturbation: Perturbation) -> None:
        super().__init__(perturbation.name)
        self._perturbation = perturbation

    def applied(self, loaded: LoadedModel, role: Role) -> AbstractContextManager[None]:
        """As in `Variation`."""
        return loaded.encoder.altered(media=self._perturbation)


def perturb(attack: Perturbing, listener: Listener = unheard) -> PerturbResult:
    """Measure a model on changed images, and its base and gold alike.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written, no changed image either.

    Raises:
        UserError: Sets, gates or models are wrong, or the architecture has no place for a universal perturbation.
        Diverged: Training the universal perturbation diverged.
    """
    started = time.perf_counter()
    variations: list[Variation] = [PerturbedImages(each) for each in attack.perturbations]
    shown = [record for record in attack.forget.records if to_forget(record)]
    universal = None
    if attack.universal is not None:
        if not shown:
            raise UserError(
                "the forget set holds nothing that a perturbation could be trained on",
                where=attack.forget.name,
                expected="questions about images in tasks other than general.* and text.*",
            )
        universal = UniversalPerturbation(attack.universal, shown, listener)
        variations.append(universal)
    if not variations:
        raise UserError("no perturbation was chosen", expected="`perturbations`, or `universal`")
    measured = measure_variations(replace(attack, forget=attack.heldout or attack.forget), "perturb", variations,
                                  listener)  # fmt: skip
    warnings = list(measured.warnings)
    if attack.heldout is None:
        warnings.append("measured on the forget set's own images; give `heldout` for other views")
    return PerturbResult(
        models=measured.models,
        sets=measured.sets,
        settings=PerturbSettings(
            **attack.asking(measured.device),
            perturbations=[each.name for each in attack.perturbations],
            universal=_universal_settings(attack.universal, universal, len(shown)),
            measured_on="heldout" if attack.heldout else "forget",
        ),
        metrics=measured.metrics,
        gates=judge_metrics(attack.gates, measured.metrics),
        warnings=warnings,
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _universal_settings(
    recipe: Universal | None, variation: UniversalPerturbation | None, records: int
) -> UniversalSettings | None:
    if recipe is None or variation is None:
        return None
    return UniversalSettings(
        eps=recipe.eps,
        step_size=recipe.step,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        records=records,
        losses=variation.losses,
    )
