"""Is the teacher fit to teach? Its past, and what its features tell apart.

The bounds are low on purpose: they catch a collapsed teacher, not a noisy one. Random features tell images and
subjects apart as well, so damage that keeps their spread shows only beside the original's figures
(docs/studies/method.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.provenance import SCHEMA
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.features import LEAST_VARIATION, SampleSet, teacher_features, variance
from vkdsurgeon.model.image_features import PROJECTOR
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.identity_classifier import centroids

_SUBJECTS, _VIEWS = 8, 4
_LEAST_SEPARATION, _NEXT_TO_NONE = 0.01, 0.05
_MOST_GAP = 1.0
# Sets of one kind of drawings came to 1.4 at most, of two kinds to 2.4 at least (docs/studies/method.md).
_MOST_APART = 2.0


@dataclass(frozen=True)
class TeacherQuality:
    """What a sample of the given images looks like to a teacher, at the projector's output.

    Attributes:
        pictures: Size of the sample.
        variation: Variance over images of each token's features, over the features' mean square. Near zero the
            teacher sees the same in every image.
        token_variation: Variance over the tokens within images, likewise; None where an image is one token. Near
            zero all tokens are alike.
        separation: Variance between subjects over variance within subjects, the former freed of what the latter adds
            to means of few images; None where fewer than two subjects have two images each, or where it is near zero
            and so few images cannot tell whether it is.
        apart: How far the mean features of the images to forget and of those to keep lie from each other: squared
            distance over what two sets of one kind, of so few subjects and images, have by chance. About 1 for one
            kind; None where it is not asked, or fewer than two are kept.
    """

    pictures: int
    variation: float
    token_variation: float | None
    separation: float | None
    apart: float | None = None


def choose_samples(samples: Sequence[Sample]) -> list[Sample]:
    """A few images of a few subjects, in order; subjects with several images first."""
    views: dict[str, list[Sample]] = {}
    for sample in samples:
        views.setdefault(sample.subject, []).append(sample)
    ranked = sorted(views.values(), key=lambda own: -min(len(own), _VIEWS))[:_SUBJECTS]
    return [sample for own in ranked for sample in own[:_VIEWS]]


def examine(
    stack: VisualStack, samples: Sequence[Sample], micro_batch: int, budget_bytes: int, *, forgotten: int = 0
) -> TeacherQuality:
    """Measure a teacher on images.

    Args:
        stack: The teacher.
        samples: Some of a set, with subjects.
        micro_batch: Most images per forward pass.
        budget_bytes: Most bytes of features to hold in memory.
        forgotten: How many of them, from the first, are to be forgotten; the others are to be kept.

    Raises:
        UserError: A feature is NaN or infinite: nothing can be distilled from that.
    """
    chosen = SampleSet(stack, samples, 0)
    with torch.no_grad():
        features = teacher_features(stack, chosen, (PROJECTOR,), micro_batch, budget_bytes).all(PROJECTOR)
    broken = [index for index, value in enumerate(features) if not bool(torch.isfinite(value).all())]
    if broken:
        raise UserError(
            f"the teacher's features are NaN or infinite on {len(broken)} of {len(features)} images",
            where=stack.inventory.root,
            expected="finite features",
            remedy="work in float32, or start from a checkpoint that was not damaged in training or export",
        )
    return measure_features(features, chosen.subjects, forgotten)


def measure_features(features: Sequence[Tensor], subjects: Sequence[str], forgotten: int = 0) -> TeacherQuality:
    """The statistics of `TeacherQuality`.

    Args:
        features: One [N, D] per image; token positions are averaged where N differs.
        subjects: The subject of each image.
        forgotten: How many of them, from the first, are to be forgotten.
    """
    per_token = len({value.shape[0] for value in features}) == 1
    values = [value.float() if per_token else value.float().mean(dim=0, keepdim=True) for value in features]
    middle = sum(values[1:], values[0].clone()) / len(values)
    separation = _separation(values, subjects)
    if separation is not None and separation < _LEAST_SEPARATION and not _resolved(separation, values, subjects):
        separation = None
    several = [value.float() for value in features if value.shape[0] > 1]
    return TeacherQuality(
        pictures=len(values),
        variation=_share(
            [(value - middle).square().mean() for value in values], [value.square().mean() for value in values]
        ),
        token_variation=_share(
            [(value - value.mean(dim=0)).square().mean() for value in several],
            [value.square().mean() for value in several],
        )
        if several
        else None,
        separation=None if separation is None else max(separation, 0.0),
        apart=_apart(values, subjects, forgotten) if forgotten else None,
    )


def _share(parts: Sequence[Tensor], wholes: Sequence[Tensor]) -> float:
    return float(torch.stack(list(parts)).sum()) / max(float(torch.stack(list(wholes)).sum()), 1e-12)


def _resolved(separation: float, values: Sequence[Tensor], subjects: Sequence[str]) -> bool:
    """Whether so few images show that subjects are not told apart, rather than nothing.

    By the jackknife over subjects (Efron and Stein, The Annals of Statistics 9, 1981): two standard errors above the
    estimate there is still next to no separation.
    """
    pairs = list(zip(values, subjects, strict=True))
    # One image says nothing of its subject, and is not counted.
    told = [subject for subject, count in Counter(subjects).items() if count > 1]
    without = [_separation(*zip(*[pair for pair in pairs if pair[1] != name], strict=True)) for name in told]
    found = [ratio for ratio in without if ratio is not None]
    if len(found) < 2:
        return True
    middle = sum(found) / len(found)
    error = (sum((ratio - middle) ** 2 for ratio in found) * (len(found) - 1) / len(found)) ** 0.5
    return separation + 2 * error < _NEXT_TO_NONE


def _separation(values: Sequence[Tensor], subjects: Sequence[str]) -> float | None:
    """As `TeacherQuality` has it; below zero where subjects differ by less than the accident of their images."""
    counts = {subject: list(subjects).count(subject) for subject in subjects}
    several = [subject for subject, count in counts.items() if count > 1]
    if len(several) < 2:
        return None
    chosen = [index for index, subject in enumerate(subjects) if subject in several]
    means = centroids([values[i] for i in chosen], [subjects[i] for i in chosen], per_token=True)
    middle = torch.stack(list(means.values())).mean(dim=0)
    spread = sum(float((values[index] - means[subjects[index]]).square().mean()) for index in chosen)
    within = spread / (len(chosen) - len(several))
    between = sum(float((mean - middle).square().mean()) for mean in means.values()) / (len(several) - 1)
    accident = within * sum(1 / counts[subject] for subject in several) / len(several)
    return (between - accident) / max(within, 1e-12)


def _apart(values: Sequence[Tensor], subjects: Sequence[str], forgotten: int) -> float | None:
    kept = values[forgotten:]
    if len(kept) < 2:
        return None
    means = [torch.stack(list(part)).mean(dim=0) for part in (values[:forgotten], kept)]
    separation = _separation(kept, subjects[forgotten:])
    ratio = None if separation is None else max(separation, 0.0)
    # Where nothing tells subjects apart from views, every image counts as somebody.
    between = 1.0 if ratio is None else ratio / (1 + ratio)
    by_chance = sum(
        between / len(set(part)) + (1 - between) / len(part) for part in (subjects[:forgotten], subjects[forgotten:])
    )
    return float((means[0] - means[1]).square().mean()) / max(variance(kept) * by_chance, 1e-12)


def quality_warnings(quality: TeacherQuality, whose: str) -> list[str]:
    """What the statistics say against a teacher, as warnings.

    Args:
        quality: From `examine`.
        whose: Whose features, as the start of a sentence.
    """
    found = []
    if quality.variation < LEAST_VARIATION:
        found.append(
            f"{whose} hardly differ between images (variance {quality.variation:.1e} of their power): the teacher "
            "looks collapsed, and there is little to forget or to keep"
        )
    if quality.token_variation is not None and quality.token_variation < LEAST_VARIATION:
        found.append(
            f"{whose} hardly differ between the tokens of an image (variance {quality.token_variation:.1e} of their "
            "power): the teacher looks collapsed"
        )
    if quality.separation is not None and quality.separation < _LEAST_SEPARATION:
        found.append(
            f"{whose} hardly tell subjects apart (variance between subjects {quality.separation:.3f} of that within): "
            "the teacher is degraded, or never knew them; check the checkpoint, or name a better `retain_teacher`"
        )
    return found


def kind_warnings(quality: TeacherQuality) -> list[str]:
    """A warning where the images to keep are of another kind than those to forget."""
    if quality.apart is None or quality.apart <= _MOST_APART:
        return []
    return [
        "the images to keep look unlike those to forget (the squared distance of their mean features is "
        f"{quality.apart:.1f} times that of two sets of one kind): what is "
        "kept on them, and the stop rule's retain drift, say little about others of the kind that is forgotten; give "
        "such images with `retain` or `generic`, and measure with `eval`"
    ]


def earlier_operations(inventory: Inventory, modality: Modality) -> list[str]:
    """Names of the records that earlier operations of this tool on the same tower left in a checkpoint.

    Args:
        inventory: The checkpoint's.
        modality: What the tower takes in; another tower shares no weight with it.
    """
    names = []
    for file in inventory.files:
        if not (file.path.startswith("vkdsurgeon") and file.path.endswith(".json")):
            continue
        try:
            record = json.loads((inventory.root / file.path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Whatever it is, it is no record of ours.
            continue
        ours = (
            isinstance(record, dict) and str(record.get("schema", "")).rpartition("/")[0] == SCHEMA.rpartition("/")[0]
        )
        # Records say it since there are two.
        if ours and record.get("modality", "image") == modality:
            names.append(file.path)
    return names


def gap_warnings(gap: float, option: str) -> list[str]:
    """A warning where another teacher lives in another feature space than the language model reads.

    Args:
        gap: From `Teacher.compare`.
        option: What the teacher was given with.
    """
    if gap <= _MOST_GAP:
        return []
    return [
        f"the features of {option} differ from the checkpoint's by {gap:.2f} of their power: the language model was "
        "never trained to read such features; a teacher should be of the checkpoint's own lineage"
    ]


def operation_warnings(inventory: Inventory, modality: Modality, what: str) -> list[str]:
    """A warning where a checkpoint's tower was operated on before."""
    records = earlier_operations(inventory, modality)
    if not records:
        return []
    return [
        f"{what} was unlearned before ({', '.join(records)}): its features are the teacher, with all that the earlier "
        "run cost; where the original is at hand, name it with `retain_teacher` or start from it"
    ]
