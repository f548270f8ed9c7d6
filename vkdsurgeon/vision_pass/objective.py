"""From teachers to terms: whose features the student is to show on which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.augment import variants
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.data.splits import split_validation
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.features import FeatureStore, SampleSet, TeacherPass, spread, teacher_features
from vkdsurgeon.model.frozen_layers import KeptActivations, frozen_layers, kept_activations, output_of
from vkdsurgeon.model.replayed import ReplayedSample
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.vision_pass.identity_space import IdentitySpace, Image
from vkdsurgeon.vision_pass.target_readings import TargetReading, read_targets
from vkdsurgeon.vision_pass.targets import FORGET_TARGETS, ForgetTargets, TargetContext
from vkdsurgeon.vision_pass.targets.stretched import StretchedTargets
from vkdsurgeon.vision_pass.teacher import Teacher
from vkdsurgeon.vision_pass.trainer import DistillationTerm

# Images that the stop rule looks at, per set, and copies of each of them, as far as that goes. Their numbers are
# beyond those of any copy that is trained on.
_LOOKED_AT, _LOOKS, _FIRST_LOOK = 256, 4, 10_000


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

    @property
    def stretched(self) -> StretchedTargets:
        """The forget term's targets."""
        assert isinstance(self.forget.targets, StretchedTargets)
        return self.forget.targets


@dataclass(frozen=True)
class _Division:
    """Images of a set with their copies, and what is done with them.

    Attributes:
        samples: Originals, copies to train on, copies to look at.
        known: Originals that are trained on.
        held_out: Originals that are not.
        train: Those that are trained on and their copies.
        judged: What the stop rule looks at.
        apart: Whether nothing of that was trained on in any form.
    """

    samples: SampleSet
    known: list[int]
    held_out: list[int]
    train: list[int]
    judged: list[int]
    apart: bool


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
        UserError: The sets do not suffice for the forget target, a teacher cannot be loaded, or the targets still read
            as the subjects that are to be forgotten.
    """
    budget = int(recipe.cache_gib * (1 << 30)) // 2
    originals = len(forget), len(keep)
    forgetting = _divide(stack, forget, recipe, recipe.forget_batch, budget)
    keeping = _divide(stack, keep, recipe, recipe.retain_batch, budget)
    forget, keep = forgetting.samples, keeping.samples
    layers = tuple(recipe.layers)
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    frozen = run_once(stack, recipe)
    own, activations = _features(look, stack, forget, layers, frozen, recipe.micro_batch, budget)
    if retain_teacher is None:
        kept, _ = _features(look, stack, keep, watched, frozen, recipe.micro_batch, budget)
    else:
        kept = retain_teacher.features(keep.samples, watched, recipe.micro_batch, budget)
    context = TargetContext(
        recipe=recipe,
        forget=own,
        keep=kept,
        forget_subjects=forget.subjects,
        keep_subjects=keep.subjects,
        forget_known=forgetting.known,
        keep_known=keeping.known,
        generator=generator,
        altered=lambda alter: teacher_features(
            stack, SampleSet(stack, forget.samples, 0, alter=alter), layers, recipe.micro_batch, budget
        ),
        reference=None
        if forget_teacher is None
        else partial(forget_teacher.features, forget.samples, layers, recipe.micro_batch, budget),
        empty=partial(FeatureStore, budget),
        forget_digests=[sample.digest for sample in forget.samples],
        keep_digests=[sample.digest for sample in keep.samples],
        device=stack.device,
    )
    targets = FORGET_TARGETS[recipe.forget_target](context)
    spaces = {layer: context.spaces(layer)[0] for layer in layers}
    for space in spaces.values():
        space.reader.to(stack.device)
    readings = targets.readings or {
        layer: read_targets(space, partial(_target, targets, layer)) for layer, space in spaces.items()
    }
    check_targets(recipe, readings)
    return DistillationTerms(
        forget=DistillationTerm(
            "forget",
            forget,
            StretchedTargets(own, targets.features),
            recipe.layers,
            feature_loss({recipe.distance: 1.0}),
            forgetting.train,
            forgetting.judged,
            1.0,
            recipe.forget_batch,
            originals=originals[0],
            apart=forgetting.apart,
        ),
        retain=DistillationTerm(
            "retain",
            keep,
            kept,
            recipe.retention_layers,
            feature_loss(recipe.retention_distance),
            keeping.train,
            keeping.judged,
            recipe.retain_weight,
            recipe.retain_batch,
            {layer: spread(kept.all(layer)[: originals[1]]) for layer in layers},
            originals=originals[1],
            apart=keeping.apart,
        ),
        targets=targets,
        readings=readings,
        spaces=spaces,
        frozen=frozen,
        activations=activations,
    )


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
    kept = kept_activations(stack, images, frozen, tuple(output.shape), store, layers)
    images.pass_over(None if kept is None else kept.entering)
    return store, kept


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


def _divide(stack: VisualStack, samples: SampleSet, recipe: Recipe, batch: int, budget: int) -> _Division:
    known, held_out = split_validation(samples.subjects, recipe.validation_share)
    # A subject with too few images to spare one is judged on copies that are not trained on.
    spared = {samples.subjects[index] for index in held_out}
    unspared = [index for index in known if samples.subjects[index] not in spared]
    originals = held_out[:: max(1, -(-len(held_out) // _LOOKED_AT))]
    copied = [*originals, *unspared[:: max(1, -(-len(unspared) // _LOOKED_AT))]]
    looks = min(_LOOKS, max(_LOOKED_AT // max(len(copied), 1) - len(originals) // max(len(copied), 1), 1))
    # No more than the steps can draw: each copy costs the teacher a pass.
    affordable = batch * recipe.planned_steps // max(len(known), 1) - 1
    count = min(recipe.copies, max(affordable, 0))
    training = _copies(samples, known, count)
    judging = _copies(samples, copied, looks, after=_FIRST_LOOK)
    first = len(samples)
    return _Division(
        SampleSet(stack, [*samples.samples, *training, *judging], budget),
        known,
        held_out,
        [*known, *range(first, first + len(training))],
        [*originals, *range(first + len(training), first + len(training) + len(judging))],
        bool(held_out) and not unspared,
    )


def _copies(samples: SampleSet, indices: Sequence[int], count: int, after: int = 0) -> list[Sample]:
    # Of an image that is gone no other copy can be made.
    there = [index for index in indices if not isinstance(samples.samples[index], ReplayedSample)]
    return variants(samples.samples, there, count, after=after)


def unknown_layers(recipe: Recipe, known: Sequence[str]) -> list[tuple[str, str]]:
    """(recipe key, layer) of every layer that the tower does not have."""
    named = {"layers": recipe.layers, "retain_layers": recipe.retain_layers or {}}
    return [(key, layer) for key, layers in named.items() for layer in layers if layer not in known]
