"""From teachers to terms: whose features the student is to show on which images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet, TeacherPass, spread, teacher_features
from vkdsurgeon.model.frozen_layers import KeptActivations, frozen_layers, kept_activations, output_of
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.losses import Targets, feature_loss
from vkdsurgeon.vision_pass.division import Division, divide
from vkdsurgeon.vision_pass.identity_space import IdentitySpace, Image
from vkdsurgeon.vision_pass.target_readings import TargetReading, read_targets
from vkdsurgeon.vision_pass.targets import FORGET_TARGETS, ForgetTargets, TargetContext
from vkdsurgeon.vision_pass.targets.stretched import StretchedTargets
from vkdsurgeon.vision_pass.teacher import Teacher
from vkdsurgeon.vision_pass.trainer import DistillationTerm

# Elements of all kept subjects' centroids, half a GiB in float32, of which there are five at a time; and how many
# subjects there are at least.
_CENTROIDS, _FEWEST_SUBJECTS = 1 << 27, 64


@dataclass(frozen=True)
class DistillationTerms:
    """What the student is taught, and what it is judged by.

    Attributes:
        forget: The forget term; its targets are a `StretchedTargets`.
        retain: The retain term.
        targets: What the strategy made.
        readings: What the forget targets read as, by layer.
        spaces: How subjects are read off features, by layer.
        frozen: The first layers of the tower, which are not trained; names as features are tapped.
        activations: What the last of them returned for the forget images, where that is kept.
    """

    forget: DistillationTerm
    retain: DistillationTerm
    targets: ForgetTargets
    readings: dict[str, TargetReading]
    spaces: dict[str, IdentitySpace]
    frozen: tuple[str, ...] = ()
    activations: KeptActivations | None = None

    @property
    def both(self) -> tuple[DistillationTerm, DistillationTerm]:
        """Forgetting and retention."""
        return self.forget, self.retain

    def release(self) -> None:
        """Give back what copies of features take of a GPU's memory."""
        stores = [self.stretched.teacher, self.targets.features, self.retain.targets]
        for store in (*stores, *([] if self.activations is None else [self.activations.store])):
            if isinstance(store, FeatureStore):
                store.release()

    @property
    def stretched(self) -> StretchedTargets:
        """The forget term's targets."""
        assert isinstance(self.forget.targets, StretchedTargets)
        return self.forget.targets


def make_terms(
    stack: VisualStack,
    forget: SampleSet,
    keep: SampleSet,
    recipe: Recipe,
    generator: Generator,
    *,
    forget_teacher: Teacher | None = None,
    retain_teacher: Teacher | None = None,
    look: TeacherPass = teacher_features,
) -> DistillationTerms:
    """Run the teachers and make the forget and the retain term.

    Args:
        stack: Tower and projector as the checkpoint has them; the teacher of whatever no other teacher is given for.
        forget: Images to forget.
        keep: Retain and generic images.
        recipe: The settings, fitted.
        generator: Source of the draws that targets make.
        forget_teacher: The reference model, for forget target `reference`.
        retain_teacher: Teacher of the kept images, and the space that identities are taken from.
        look: Runs the own teacher over a set; one that remembers saves the passes of later runs on the same weights.

    Raises:
        UserError: The sets do not suffice for the forget target, a teacher cannot be loaded or has features that are
            not finite, or the targets still read as the subjects that are to be forgotten.
    """
    budget = int(recipe.cache_gib * (1 << 30)) // 2
    forgetting = divide(stack, forget, recipe, recipe.forget_batch, budget)
    keeping = divide(stack, keep, recipe, recipe.retain_batch, budget, pooled=True)
    layers = tuple(recipe.layers)
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    frozen = run_once(stack, recipe)
    own, activations = _features(look, stack, forgetting.samples, layers, frozen, recipe.micro_batch, budget)
    _pass_over(forgetting.samples, activations)
    if retain_teacher is None:
        kept, entering = _features(look, stack, keeping.samples, watched, frozen, recipe.micro_batch, budget)
        _pass_over(keeping.samples, entering)
    else:
        kept = retain_teacher.features(
            keeping.samples.samples, watched, recipe.micro_batch, budget, stack.training_bytes
        )
    for store, images, names in ((own, forgetting.samples, layers), (kept, keeping.samples, watched)):
        _refuse_not_finite(store, images, names)
    largest = max(kept.one(layer, 0).numel() for layer in layers)
    context = TargetContext(
        recipe=recipe,
        forget=own,
        keep=kept,
        forget_subjects=forgetting.samples.subjects,
        keep_subjects=keeping.samples.subjects,
        forget_known=forgetting.known,
        keep_known=_of_few_subjects(keeping.samples.subjects, keeping.known, largest),
        generator=generator,
        reference=None
        if forget_teacher is None
        else partial(
            forget_teacher.features,
            forgetting.samples.samples,
            layers,
            recipe.micro_batch,
            budget,
            stack.training_bytes,
        ),
        empty=partial(FeatureStore, budget, leave=stack.training_bytes),
        forget_digests=[sample.digest for sample in forgetting.samples.samples],
        keep_digests=[sample.digest for sample in keeping.samples.samples],
        device=stack.device,
    )
    targets = FORGET_TARGETS[recipe.forget_target](context)
    spaces, readings = _read(context, targets)
    check_targets(recipe, readings)
    spreads = {layer: spread(kept.all(layer)[: len(keep)]) for layer in layers}
    return DistillationTerms(
        forget=_term(
            "forget", forgetting, StretchedTargets(own, targets.features), recipe, len(forget), layers=recipe.layers
        ),
        retain=_term("retain", keeping, kept, recipe, len(keep), layers=recipe.retention_layers, spreads=spreads),
        targets=targets,
        readings=readings,
        spaces=spaces,
        frozen=frozen,
        activations=activations,
    )


def _term(
    name: str,
    division: Division,
    targets: Targets,
    recipe: Recipe,
    originals: int,
    *,
    layers: Mapping[str, float],
    spreads: Mapping[str, float] | None = None,
) -> DistillationTerm:
    forget = name == "forget"
    return DistillationTerm(
        name,
        division.samples,
        targets,
        layers,
        feature_loss(recipe.distance),
        division.train,
        division.judged,
        1.0 if forget else recipe.retain_weight,
        recipe.forget_batch if forget else recipe.retain_batch,
        spreads or {},
        originals,
        division.unseen,
    )


def _read(context: TargetContext, targets: ForgetTargets) -> tuple[dict[str, IdentitySpace], dict[str, TargetReading]]:
    """How identities are read at each layer, and what the targets read as."""
    spaces = {layer: context.spaces(layer)[0] for layer in context.recipe.layers}
    for space in spaces.values():
        space.reader.to(context.device)
    readings = targets.readings or {
        layer: read_targets(space, partial(_target, targets, layer)) for layer, space in spaces.items()
    }
    for space in spaces.values():
        space.release()
    return spaces, readings


def run_once(stack: VisualStack, recipe: Recipe) -> tuple[str, ...]:
    """The layers that need not be run in every step; see `frozen_layers`."""
    trained = [name for name, parameter in stack.visual_parameters().items() if parameter.requires_grad]
    return frozen_layers(stack, trained, {**recipe.layers, **recipe.retention_layers})


def _features(
    look: TeacherPass,
    stack: VisualStack,
    images: SampleSet,
    layers: tuple[str, ...],
    frozen: tuple[str, ...],
    micro_batch: int,
    budget: int,
) -> tuple[FeatureStore, KeptActivations | None]:
    """The teacher's features of a set, whose frozen layers are run this once if memory for their output suffices."""
    output = output_of(stack, images, frozen[-1]) if frozen else None
    if output is None or output.nbytes * len(images) > budget:
        return look(stack, images, layers, micro_batch, budget), None
    store = look(stack, images, (*layers, frozen[-1]), micro_batch, budget)
    return store, kept_activations(stack, images, frozen, tuple(output.shape), store, layers)


def _pass_over(images: SampleSet, kept: KeptActivations | None) -> None:
    """Let later batches of a set enter behind the frozen layers."""
    images.pass_over(None if kept is None else kept.entering)


def _refuse_not_finite(store: FeatureStore, images: SampleSet, layers: Sequence[str]) -> None:
    """The plan has looked at some of the images only."""
    for layer in layers:
        for index, sample in enumerate(images.samples):
            if not math.isfinite(store.power(layer, index)):
                raise UserError(
                    f"the teacher's features at {layer!r} are not finite",
                    where=sample.source,
                    expected="finite features of every image",
                    remedy="work in float32 (`dtype`), or take the image out",
                )


def _of_few_subjects(subjects: Sequence[str], known: Sequence[int], elements: int) -> list[int]:
    """Of very many kept subjects, some, spread evenly: each has several centroids of so many elements in memory."""
    names = list(dict.fromkeys(subjects[index] for index in known))
    most = max(_CENTROIDS // elements, _FEWEST_SUBJECTS)
    chosen = set(names[:: max(1, -(-len(names) // most))])
    return [index for index in known if subjects[index] in chosen]


def _target(targets: ForgetTargets, layer: str, image: Image) -> Tensor:
    return targets.features.one(layer, image[1])


def check_targets(recipe: Recipe, readings: dict[str, TargetReading]) -> None:
    """Refuse targets that still are the person.

    Raises:
        UserError: At some layer, the targets of a subject read as that subject more often than chance.
    """
    for layer, reading in readings.items():
        if reading.still:
            raise UserError(
                f"the forget targets of {reading.still} subject(s) still read as the subject itself at {layer!r}: "
                "training towards them would forget nothing",
                where=f"forget target {recipe.forget_target!r}",
                value=f"{reading.own} of {reading.images} targets read as their own subject (before: "
                f"{reading.original})",
                expected=f"no more than chance, which is 1 in {reading.subjects}",
                remedy="give more images of each subject and more retain subjects of the same kind, or another "
                "forget_target or `seed`",
            )


def unknown_layers(recipe: Recipe, known: Sequence[str]) -> list[tuple[str, str]]:
    """(recipe key, layer) of every layer that the tower does not have."""
    named = {"layers": recipe.layers, "retain_layers": recipe.retain_layers or {}}
    return [(key, layer) for key, layers in named.items() for layer in layers if layer not in known]
