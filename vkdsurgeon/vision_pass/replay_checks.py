"""Whether anyone of a replay file is in a set of the run as well."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vkdsurgeon.data.samples import Sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.replayed import ReplayedSample
from vkdsurgeon.vision_pass.objective import DistillationTerms
from vkdsurgeon.vision_pass.replay_format import Replay, name_digest

# Rounding to bfloat16 moves activations by 0.4 % at most; other images of one person lie farther apart.
_SAME = 0.01


def name_warnings(replay: Replay, forget: Collection[str], retain: Collection[str]) -> list[str]:
    """Subjects of encrypted replay files that have the name of one in a set; files in the clear hold no names.

    Args:
        replay: From `read_replays`.
        forget: Names of the forget set's subjects.
        retain: Names of the retain set's subjects.
    """
    found = []
    for subjects, role, harm in (
        (retain, "retain", "that works against forgetting"),
        (forget, "forget", "each is moved towards two nobodies at once; leave out the images or the file"),
    ):
        shared = {name_digest(subject, replay.base) for subject in subjects} & replay.names
        if shared:
            found.append(f"{len(shared)} subject(s) of the replay files have images in the {role} set: {harm}")
    return found


def check_images(terms: DistillationTerms) -> None:
    """Refuse images of a set that a replay file stands for too; as far as their activations were kept.

    Args:
        terms: From `make_terms`.

    Raises:
        UserError: Naming the first such image and its file.
    """
    forget, retain, kept = terms.forget, terms.retain, terms.activations
    samples = forget.samples.samples[: forget.originals]
    replayed = [sample for sample in samples if isinstance(sample, ReplayedSample)]
    if not replayed or kept is None:
        return
    own = [index for index, sample in enumerate(samples) if not isinstance(sample, ReplayedSample)]
    _refuse("forget", replayed, [samples[index] for index in own], [kept.store.one(kept.layer, i) for i in own])
    store = retain.targets
    if isinstance(store, FeatureStore) and kept.layer in store.layers:
        originals = range(retain.originals)
        activations = [store.one(kept.layer, index) for index in originals]
        _refuse("retain", replayed, retain.samples.samples[: retain.originals], activations)


def _refuse(
    role: str, replayed: Sequence[ReplayedSample], samples: Sequence[Sample], activations: Sequence[Tensor]
) -> None:
    if not samples:
        return
    means = torch.stack([value.float().mean(0) for value in activations])
    both: list[tuple[Sample, Path]] = []
    for gone in replayed:
        wanted = gone.activation.float()
        # The mean over tokens leaves few of them to be compared as a whole.
        near = (means - wanted.mean(0)).norm(dim=1) <= _SAME * wanted.square().mean(0).sum().sqrt()
        both += [
            (samples[index], gone.path)
            for index in near.nonzero().flatten().tolist()
            if activations[index].shape == wanted.shape
            and (activations[index].float() - wanted).norm() <= _SAME * wanted.norm()
        ]
    if both:
        sample, file = both[0]
        raise UserError(
            f"the {role} set and the replay files share {len({each.digest for each, _ in both})} image(s)",
            where=sample.source,
            value=str(sample.path),
            expected=f"disjoint sets; {file} stands for the same image",
            remedy="leave the image out" if role == "retain" else "leave out the images or the file",
        )
