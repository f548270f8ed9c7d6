"""Which images a probe is trained and tested on, and their features."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vkdsurgeon.data.samples import Sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.results.attacks import Pooling
from vkdsurgeon.training.events import Event, Listener, unheard

_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Gallery:
    """Labelled images and how they are split.

    Attributes:
        images: All of them, those to be forgotten first.
        subjects: Label of each.
        forget: Whether each is to be forgotten.
        splits: Pairs of indices to train and to test on; every image is tested at most once, on a reader that never
            saw it.
    """

    images: tuple[Sample, ...]
    subjects: tuple[str, ...]
    forget: tuple[bool, ...]
    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def people(self, *, forget: bool) -> list[str]:
        """Distinct subjects of one part."""
        chosen = (name for name, mine in zip(self.subjects, self.forget, strict=True) if mine == forget)
        return list(dict.fromkeys(chosen))


def build_gallery(
    forget: Sequence[Sample],
    retain: Sequence[Sample],
    heldout: Sequence[Sample],
    retain_heldout: Sequence[Sample],
    *,
    folds: int,
    limit: int | None,
    seed: int,
) -> tuple[Gallery, list[str]]:
    """Put images together and split them by views.

    Args:
        forget: Images of the subjects to be forgotten.
        retain: Images of others; may be empty.
        heldout: Other views of the forget subjects to test on; without any, views are dealt into folds.
        retain_heldout: Other views of the retain subjects; without any (and with `heldout`) a part of their views is
            tested on.
        folds: Number of folds.
        limit: At most about so many retain images to train and fold on: whole subjects are drawn.
        seed: Seed of the random draw and folds.

    Returns:
        The gallery, and warnings about what was left out.

    Raises:
        UserError: An image stands in two sets, or a forget subject has a single view and there are no held-out ones.
    """
    warnings = []
    _check_apart({"forget": forget, "retain": retain, "heldout": heldout, "retain-heldout": retain_heldout})
    named = {image.subject for image in forget}
    if any(image.subject in named for image in (*retain, *retain_heldout)):
        warnings.append("retain images of subjects that are to be forgotten were left out")
        retain, retain_heldout = (
            [image for image in part if image.subject not in named] for part in (retain, retain_heldout)
        )
    if heldout and any(image.subject not in named for image in heldout):
        warnings.append("held-out images of subjects that the forget set does not have were left out")
        heldout = [image for image in heldout if image.subject in named]
    views = Counter(image.subject for image in forget)
    if not heldout and min(views.values()) < 2:
        raise UserError(
            "a forget subject has a single image, so a probe cannot be tested on another image of it",
            where=next(image.source for image in forget if views[image.subject] == 1),
            expected="two or more images per subject, or `heldout`",
        )
    known = _draw_subjects(_with_views(retain, 2 if not retain_heldout else 1), limit, seed)
    people = {image.subject for image in known}
    if len(people) < len({image.subject for image in retain}):
        warnings.append(f"{len(people)} of {len({image.subject for image in retain})} retain subjects took part")
    others = [image for image in retain_heldout if image.subject in people]
    images = [*forget, *heldout, *known, *others]
    marks = [*[True] * (len(forget) + len(heldout)), *[False] * (len(known) + len(others))]
    subjects = [image.subject for image in images]
    if heldout:
        tested = set(range(len(forget), len(forget) + len(heldout)))
        first = len(forget) + len(heldout)
        tested |= set(range(first + len(known), len(images)))
        if known and not others:
            dealt = deal_folds(subjects[first:], folds, seed)
            tested |= {first + index for index, fold in enumerate(dealt) if fold == 0}
        splits = [([index for index in range(len(images)) if index not in tested], sorted(tested))]
    else:
        folds = min(folds, min(views.values()))
        dealt = deal_folds(subjects, folds, seed)
        splits = [
            (
                [index for index, own in enumerate(dealt) if own != fold],
                [index for index, own in enumerate(dealt) if own == fold],
            )
            for fold in range(folds)
        ]
    return (
        Gallery(
            tuple(images), tuple(subjects), tuple(marks), tuple((tuple(left), tuple(right)) for left, right in splits)
        ),
        warnings,
    )


def deal_folds(subjects: Sequence[str], folds: int, seed: int) -> list[int]:
    """Deal every subject's images out to folds like cards, in a drawn order; gives the fold of each image."""
    generator = random.Random(seed)
    by_subject: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        by_subject.setdefault(subject, []).append(index)
    dealt = [0] * len(subjects)
    for members in by_subject.values():
        generator.shuffle(members)
        for turn, index in enumerate(members):
            dealt[index] = turn % folds
    return dealt


def layer_features(
    stack: VisualStack,
    gallery: Gallery,
    layers: Sequence[str],
    pooling: Pooling,
    batch_size: int,
    listener: Listener = unheard,
) -> dict[str, np.ndarray]:
    """Features of every image at every layer, as a reader takes them.

    Args:
        stack: Tower and projector.
        gallery: The images.
        layers: Some of the stack's.
        pooling: `mean` over tokens, or all `tokens` one after the other.
        batch_size: Most images per forward pass.
        listener: Gets progress events.

    Returns:
        Layer -> float64 [n, D], or [n, N * D] of all tokens.

    Raises:
        UserError: A feature is NaN or infinite; or all tokens are wanted and their number differs between images.
    """
    chosen = SampleSet(stack, gallery.images, _CACHE_BYTES)
    rows: dict[str, dict[int, np.ndarray]] = {layer: {} for layer in layers}
    done = 0
    with torch.no_grad():
        for indices, batch in chosen.batches(range(len(chosen)), batch_size):
            for layer, values in stack.features(batch, layers).items():
                pooled = values.mean(dim=1) if pooling == "mean" else values.flatten(1)
                rows[layer] |= zip(indices, pooled.double().cpu().numpy(), strict=True)
            done += len(indices)
            text = f"features of {done} of {len(chosen)} images"
            listener(Event("features", text, {"done": done, "total": len(chosen)}))
    if any(len({row.shape for row in found.values()}) > 1 for found in rows.values()):
        raise UserError(
            "images have different numbers of tokens",
            where="`pooling`",
            value=pooling,
            remedy="use `pooling=mean`",
        )
    features = {layer: np.stack([found[index] for index in range(len(chosen))]) for layer, found in rows.items()}
    broken = [layer for layer, values in features.items() if not np.isfinite(values).all()]
    if broken:
        raise UserError("features are NaN or infinite", where=stack.inventory.root, value=broken[0])
    return features


def _with_views(images: Sequence[Sample], least: int) -> list[Sample]:
    views = Counter(image.subject for image in images)
    return [image for image in images if views[image.subject] >= least]


def _draw_subjects(images: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    if limit is None or len(images) <= limit:
        return list(images)
    views = Counter(image.subject for image in images)
    order = sorted(views)
    random.Random(seed).shuffle(order)
    drawn: set[str] = set()
    room = limit
    for subject in order:
        if views[subject] <= room or len(drawn) < 2:
            drawn.add(subject)
            room -= views[subject]
    return [image for image in images if image.subject in drawn]


def _check_apart(parts: dict[str, Iterable[Sample]]) -> None:
    known: dict[str, tuple[str, Sample]] = {}
    for name, images in parts.items():
        for image in images:
            other, first = known.setdefault(image.digest, (name, image))
            if other != name:
                raise UserError(
                    f"an image is in the {other} and in the {name} set",
                    where=image.source,
                    expected=f"different images; the same bytes are at {first.source}",
                )
